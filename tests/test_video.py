"""Videos and sounds, from the pipelines that make them to files, runs and reports."""

import base64
import json
import re
import wave
from io import BytesIO
from itertools import pairwise

import families
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import dsearch
from dsearch import media, methods
from dsearch.adapters import AnyPipeline
from dsearch.core.frames import contact_sheet, evenly
from dsearch.experiments import Experiment, Model, Named, Run, merge, run
from dsearch.report import report
from dsearch.rewards import Compressibility, per_frame

FRAMES = {"WanPipeline": 9, "AnimateDiffPipeline": 4, "CogVideoXPipeline": 9}
every_video = pytest.mark.parametrize("name", FRAMES)


def brightness(images, prompts):
    """Of pictures `[N, 3, H, W]`."""
    return images.double().mean(dim=(1, 2, 3)) * 100


def pipeline(name, **more):
    pipe, call = families.FAMILIES[name]()
    return AnyPipeline(pipe, **{**call, "num_inference_steps": 2, **more})


# ---- frames -------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40))
def test_frames_are_evenly_spread_from_the_first_to_the_last(count, of):
    places = evenly(count, of)
    assert places == sorted(set(places)) and len(places) == min(count, of)
    assert set(places) <= set(range(of))
    if len(places) > 1:
        gaps = [b - a for a, b in pairwise(places)]
        assert places[0] == 0 and places[-1] == of - 1 and max(gaps) - min(gaps) <= 1


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_contact_sheet_holds_its_frames_in_reading_order(length, frames):
    video = torch.arange(1, length + 1).float()[None, :, None, None, None].expand(1, length, 3, 2, 3) / 32
    sheet = contact_sheet(video, frames)[0]
    cells = sheet.unfold(1, 2, 2).unfold(2, 3, 3)[0, :, :, 0, 0].flatten()
    shown = torch.tensor(evenly(frames, length)) + 1
    assert torch.equal(cells[: len(shown)] * 32, shown.float()) and not cells[len(shown) :].any()


# ---- rewards ------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([None, 1, 2, 4]), st.sampled_from(["mean", "min", "max"]))
def test_a_framewise_reward_is_its_reward_of_each_frame(n, length, frames, reduce):
    videos = torch.rand(n, length, 3, 4, 4, generator=torch.Generator().manual_seed(n * length))
    prompts = [f"p{row}" for row in range(n)]

    def said(images, texts):
        return images.mean(dim=(1, 2, 3)) + torch.tensor([float(text[1:]) for text in texts])

    got = per_frame(said, reduce, frames, chunk=7)(videos, prompts)
    places = range(length) if frames is None else evenly(frames, length)
    for row in range(n):
        scores = torch.stack([said(videos[row, f][None], [prompts[row]])[0] for f in places])
        torch.testing.assert_close(got[row], getattr(scores, reduce)())


def test_a_picture_is_a_video_of_one_frame():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(per_frame(brightness, frames=4)(images, ["a", "b"]), brightness(images, ["a", "b"]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: per_frame(brightness, frames=0), "frames is 0"),
        (lambda: per_frame(brightness, "median"), "over='median' is not known; choose one of mean, min, max"),
        (lambda: per_frame(brightness)(torch.rand(2, 4), ["a", "b"]), r"reads \[N, F, 3, H, W\]"),
        (lambda: per_frame(brightness)(torch.rand(2, 4, 3, 2, 2), ["a"]), "1 prompts for 2"),
        (lambda: per_frame(lambda i, p: torch.zeros(1))(torch.rand(2, 4, 3, 2, 2), ["a", "b"]), "for 8 images"),
    ],
)
def test_what_a_framewise_reward_cannot_read_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_framewise_reward_works_beside_an_accelerator_where_its_reward_does():
    assert per_frame(Compressibility()).on_host == Compressibility().on_host and not per_frame(brightness).on_host


# ---- searches -----------------------------------------------------------------------------------------------


@every_video
def test_a_search_finds_videos_and_memory_is_bounded_by_chunks(name):
    denoiser, decoded, rewarded = pipeline(name), [], []
    decode = denoiser.decode

    def counted(x0):
        decoded.append(len(x0))
        return decode(x0)

    def reward(videos, prompts):
        rewarded.append(tuple(videos.shape))
        return per_frame(brightness)(videos, prompts)

    denoiser.decode = counted
    small = dsearch.Chunks(decoder=1, reward=2)
    found = dsearch.search(denoiser, methods.svdd(reward, width=4), ["a cat"], seed=1, chunks=small)
    shape = (FRAMES[name], 3, 16, 16)
    assert found.images.shape == (1, 1, *shape) and found.cost.bill == found.cost.planned
    assert set(decoded) == {1} and {len(shape) for shape in rewarded} == {5} and max(n for n, *_ in rewarded) == 2
    whole = dsearch.search(pipeline(name), methods.svdd(per_frame(brightness), width=4), ["a cat"], seed=1)
    torch.testing.assert_close(found.images, whole.images, atol=1e-3, rtol=0)
    assert torch.equal(found.rewards[0], per_frame(brightness)(found.images[0], ["a cat"]))


@every_video
def test_a_preview_of_few_frames_is_decoded_for_values_and_the_whole_video_in_the_end(name):
    denoiser, lengths = pipeline(name, preview_frames=2), []

    def reward(videos, prompts):
        lengths.append(videos.shape[1])
        return per_frame(brightness)(videos, prompts)

    found = dsearch.search(denoiser, methods.svdd(reward, width=3), ["a cat"], seed=1)
    assert found.images.shape[2] == FRAMES[name] == lengths[-1]
    assert max(lengths[:-1]) < FRAMES[name]
    x0 = found.latents[0]
    seen = denoiser.preview(x0)
    assert seen.shape[1] == lengths[0]
    if name == "AnimateDiffPipeline":  # whose decoder takes frames by themselves
        torch.testing.assert_close(seen, denoiser.decode(x0)[:, evenly(2, FRAMES[name])])


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "LTXPipeline"])
def test_a_preview_of_few_frames_is_refused_where_there_is_no_axis_of_frames(name):
    with pytest.raises(ValueError, match=r"preview_frames=2: .* has no axis of frames"):
        pipeline(name, preview_frames=2)


# ---- files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    """Two videos of each of two prompts."""
    method = methods.svdd(per_frame(brightness), width=2, beams=2)
    return dsearch.search(pipeline("AnimateDiffPipeline"), method, ["a cat", "a red dog"], seed=1)


def frames_of(content):
    with Image.open(BytesIO(content)) as picture:
        return [frame.convert("RGB").copy() for frame in ImageSequence.Iterator(picture)], picture.info


def test_a_gif_has_all_frames_in_order_and_says_how_fast():
    video = torch.stack([torch.full((3, 6, 5), k / 4) for k in range(5)])
    frames, info = frames_of(media.gif(video, fps=10))
    assert [frame.getpixel((0, 0))[0] for frame in frames] == [round(255 * k / 4) for k in range(5)]
    assert frames[0].size == (5, 6) and info["duration"] == 100 and info["loop"] == 0
    with pytest.raises(ValueError, match="fps=0"):
        media.gif(video, fps=0)


def test_a_wav_has_the_samples_of_its_sound():
    sound = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)])
    with wave.open(BytesIO(media.wav(sound, 8000))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 50)
        samples = torch.frombuffer(bytearray(file.readframes(50)), dtype=torch.int16).view(50, 2)
    assert torch.equal(samples.T, (sound * 32767).round().short())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: media.wav(torch.zeros(2, 5), 0), "rate=0"),
        (lambda: media.wav(torch.zeros(5), 8000), r"\[C, L\], not \[5\]"),
        (lambda: media.mp4(torch.zeros(2, 3, 4, 4), fps=-1), "fps=-1"),
        (lambda: media.mp4(torch.zeros(2, 3, 1, 4)), "too small"),
    ],
)
def test_what_no_file_can_hold_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_an_mp4_has_all_frames():
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    content = media.mp4(torch.rand(6, 3, 33, 48), fps=6)
    assert content[4:8] == b"ftyp" and ffmpeg.get_ffmpeg_exe()


def test_a_result_saves_its_videos_and_replaces_them(found, tmp_path):
    paths = found.save(tmp_path, fps=4)
    assert [path.name for group in paths for path in group] == [
        *("000-00-a-cat.gif", "000-01-a-cat.gif", "001-00-a-red-dog.gif", "001-01-a-red-dog.gif")
    ]
    frames, info = frames_of(paths[1][0].read_bytes())
    assert len(frames) == 4 and info["duration"] == 250
    assert json.loads((tmp_path / "result.json").read_text())["images"][0]["file"] == "000-00-a-cat.gif"
    assert found.save(tmp_path) == paths
    sheet = found.pil()[0][0]
    assert sheet.size == (32, 32)  # 2 x 2 frames
    with pytest.raises(ValueError, match="video='avi'; choose gif or mp4"):
        found.save(tmp_path, video="avi")


def test_a_notebook_shows_videos_that_move(found):
    page = found._repr_html_()
    (first, *others) = re.findall(r"data:image/gif;base64,([\w+/=]+)", page)
    assert len(others) == 3 and len(frames_of(base64.b64decode(first))[0]) == 4


def test_sounds_are_saved_with_the_rate_that_is_said(tmp_path):
    pipe, call = families.FAMILIES["StableAudioPipeline"]()
    method = methods.svdd(lambda sounds, prompts: sounds.double().flatten(1).mean(dim=1), width=2)
    found = dsearch.search(pipe, method, ["rain"], seed=1, **call)
    assert found.images.dim() == 4
    ((path,),) = found.save(tmp_path, rate=4)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getnframes()) == tuple(found.images.shape[2:])
    with pytest.raises(TypeError, match=r"save\(folder, rate=44100\)"):
        found.save(tmp_path)


# ---- runs and reports ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment():
    return Experiment(
        prompts=("a cat", "a red dog"),
        rewards={"size": Named("per_frame", {"reward": "colourfulness", "frames": 2})},
        methods={"SVDD": Named("svdd", {"width": 2})},
        models={"video": Model("given")},
        seeds=(0, 1),
        thumbnails=16,
    )


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    denoiser = pipeline("AnimateDiffPipeline")
    for i in (1, 2):
        run(experiment, folder / f"shard{i}", shard=(i, 2), given={"video": denoiser})
    return merge([folder / "shard1", folder / "shard2"], folder / "merged")


def test_a_run_keeps_every_video_with_its_contact_sheet(finished):
    for record in finished.records():
        with Image.open(finished.image(record)) as sheet:
            assert sheet.size == (32, 32)
        frames, _ = frames_of(finished.video(record).read_bytes())
        assert len(frames) == 4 and frames[0].size == (16, 16)
    assert not finished.damages()


def test_a_damaged_video_is_seen_and_a_name_that_leads_elsewhere_refused(finished, experiment, tmp_path):
    again = run(experiment, tmp_path, given={"video": pipeline("AnimateDiffPipeline")})
    record = again.records()[0]
    file = again.video(record)
    assert file.read_bytes() == finished.video(finished.records()[0]).read_bytes()
    file.write_bytes(b"GIF89a")
    assert list(again.damages()) == [again.units[0].name]
    with pytest.raises(dsearch.experiments.ExperimentError, match="as no run does"):
        again.video({**record, "video": "../elsewhere.gif"})
    overwritten = run(experiment, tmp_path, given={"video": pipeline("AnimateDiffPipeline")}, overwrite=True)
    assert not overwritten.damages() and len(list((tmp_path / "images").iterdir())) == 8


def test_a_report_shows_videos_that_move_and_thumbnails_of_four_frames(finished):
    page = report(finished).read_text()
    videos = re.findall(r"data:image/(?:gif|webp);base64,([\w+/=]+)", page)
    moving = [content for content in videos if len(frames_of(base64.b64decode(content))[0]) == 4]
    assert len(moving) >= 4
    with Image.open(BytesIO(next(iter(Run.open(finished.folder).thumbnails(finished.units[0]).values())))) as strip:
        assert strip.size == (2 * 16, 16)


def test_a_smaller_report_has_smaller_videos_of_as_many_frames(finished):
    from dsearch.report._ladder import Coding, _coded

    with Image.open(finished.video(finished.records()[0])) as picture:
        frames, info = frames_of(_coded(picture, Coding(8, 50)))
    assert len(frames) == 4 and frames[0].size == (8, 8) and info["duration"] == 120  # hundredths of a second, cut
