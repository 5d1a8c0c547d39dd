"""Judges against real servers: one written here, which speaks the API over HTTP, and transformers' own."""

import math
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import formatdate

import pytest
import torch
from chat_server import chat, completion, in_turn, slowly
from hypothesis import given
from hypothesis import strategies as st

from dsearch.rewards import JudgeError, LocalJudge, VLMJudge
from dsearch.rewards._judging import read_score, read_winner, yes_share
from dsearch.rewards.vlm_judge import save_tiny

PROMPTS = ["a cat", "two dogs", "a cat", "", 'a sign that says "{low}"', "a tree"]


def pictures(n=6, height=40, width=36, seed=0):
    """Each brighter than the one before, on the 8-bit grid."""
    noise = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return (noise * torch.linspace(0.3, 1, n)[:, None, None, None] * 255).round() / 255


def brightness(request):
    """A number of the first picture: its mean, in levels."""
    return float(request.pictures[0].mean())


def saying(of):
    return lambda request: completion(str(of(request)))


# ---- how answers are read

FORMS = {
    "vLLM": completion("Yes", [("Yes", -0.2), ("No", -2.0), (" yes", -4.0), ("Maybe", -9999.0)], token_ids=None),
    "SGLang": {
        "id": "e1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Yes", "tool_calls": None},
            "logprobs": {"content": [{
                "token": "Yes", "bytes": [89, 101, 115], "logprob": -0.2,
                "top_logprobs": [
                    {"token": "Yes", "bytes": [89, 101, 115], "logprob": -0.2},
                    {"token": "No", "bytes": [78, 111], "logprob": -2.0},
                    {"token": " yes", "bytes": [32, 121, 101, 115], "logprob": -4.0},
                ],
            }]},
            "finish_reason": "length", "matched_stop": None,
        }],
        "usage": {"prompt_tokens": 9, "total_tokens": 10, "completion_tokens": 1},
    },
    "llama.cpp": {
        "choices": [{
            "finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": "Yes"},
            "logprobs": {"content": [{
                "id": 9642, "token": "Yes", "bytes": [89, 101, 115], "logprob": -0.2,
                "top_logprobs": [
                    {"id": 9642, "token": "Yes", "bytes": [89, 101, 115], "logprob": -0.2},
                    {"id": 2822, "token": "No", "bytes": [78, 111], "logprob": -2.0},
                    {"id": 9891, "token": " yes", "bytes": [32, 121, 101, 115], "logprob": -4.0},
                ],
            }]},
        }],
        "created": 1, "model": "m", "system_fingerprint": "b1", "object": "chat.completion", "id": "chatcmpl-1",
        "timings": {"prompt_n": 9, "predicted_n": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_p_yes_is_read_from_the_logprobs_of_each_server(form):
    yes, no = math.exp(-0.2) + math.exp(-4), math.exp(-2)
    with chat(lambda request: FORMS[form]) as server:
        found = VLMJudge(server.url, "m")(pictures(2), ["a cat", "a dog"])
    assert found.tolist() == pytest.approx([yes / (yes + no)] * 2, abs=1e-6)
    body = server.seen[0].body
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0)


SPELLINGS = st.sampled_from(["Yes", " yes", "YES", "▁No", "no.", "Ġno", "x"])


@given(st.lists(st.tuples(SPELLINGS, st.floats(-50, 0)), max_size=9))
def test_p_yes_is_the_share_of_all_spellings(tokens):
    yes = sum(math.exp(p) for token, p in tokens if "yes" in token.lower())
    no = sum(math.exp(p) for token, p in tokens if "no" in token.lower())
    if yes + no == 0:
        with pytest.raises(JudgeError, match="neither yes nor no"):
            yes_share(tokens)
    else:
        assert yes_share(tokens) == pytest.approx(yes / (yes + no))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("7", 7), (" 7.5\n", 7.5), ("8/10", 8), ("8 out of 10", 8), ("Score: 3", 3), ("**Final Score:** 4.5", 4.5),
        ("1. It has 2 cats. Score: 9/10", 9), ("score 2, no: Score: 6", 6), ("I give it a 5.", 5),
    ],
)  # fmt: skip
def test_a_score_is_the_number_that_the_answer_names(answer, score):
    assert read_score(answer, 1, 10) == score


@pytest.mark.parametrize("answer", ["", "great", "3 cats and 2 dogs", "11", "0", "-3", "Score: none"])
def test_an_answer_without_a_score_is_an_error(answer):
    with pytest.raises(JudgeError, match=r"no single number|outside of the scale 1 to 10"):
        read_score(answer, 1, 10)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("First", 1), ("second.", 0), ("Tie", 0.5), ("A", 1), ("Winner: Image B", 0), ("Image 1 is better", 1),
        ("The first shows a dog, the second a cat.\nWinner: Second", 0), ("It is a tie", 0.5), ("**Winner**: A", 1),
    ],
)  # fmt: skip
def test_a_winner_is_the_one_that_the_answer_names(answer, share):
    assert read_winner(answer) == share


@pytest.mark.parametrize("answer", ["", "both", "A is better than B", "Winner: unclear", "a"])
def test_an_answer_without_a_winner_is_an_error(answer):
    with pytest.raises(JudgeError, match="no single winner"):
        read_winner(answer)


# ---- asking over HTTP


def test_scores_keep_the_order_and_requests_are_bounded():
    images = pictures(12)
    with chat(slowly(0.02, saying(lambda request: brightness(request) / 255))) as server:
        judge = VLMJudge(server.url, "m", mode="score", scale=(0, 1), at_once=3)
        found = judge(images, [f"cat {i}" for i in range(12)])
    assert found.tolist() == pytest.approx([float(image.mean()) for image in images], abs=1e-6)
    assert 1 < server.most <= 3


def test_pictures_arrive_as_they_are_and_prompts_within_the_question():
    images = pictures(6)
    with chat(saying(lambda request: 5)) as server:
        VLMJudge(server.url, "m", "{prompt}? From {low} to {high}.", "score", at_once=1, scale=(0, 5))(images, PROMPTS)
    assert [request.text for request in server.seen] == [f"{prompt}? From 0 to 5." for prompt in PROMPTS]
    for image, request in zip(images, server.seen, strict=True):
        assert torch.equal(image, torch.from_numpy(request.pictures[0].copy()).permute(2, 0, 1) / 255)


def test_large_pictures_are_shrunk_on_request():
    with chat(saying(lambda request: 5)) as server:
        VLMJudge(server.url, "m", mode="score", edge=20)(pictures(1, 40, 30), ["a cat"])
    assert server.seen[0].pictures[0].shape == (20, 15, 3)


def test_a_picture_is_asked_about_once_for_each_prompt():
    images = pictures(2)[[0, 1, 0, 0]]
    with chat(saying(brightness)) as server:
        judge = VLMJudge(server.url, "m", mode="score", scale=(0, 255))
        first = judge(images, ["cat", "cat", "cat", "dog"])
        again = judge(images.flip(0), ["dog", "cat", "cat", "cat"])
        assert len(server.seen) == 3 and torch.equal(again, first.flip(0))
        VLMJudge(server.url, "m", "Another question?", mode="score", scale=(0, 255))(images[:1], ["cat"])
        assert len(server.seen) == 4


def test_memory_is_bounded():
    images = pictures(6)
    with chat(saying(brightness)) as server:
        judge = VLMJudge(server.url, "m", mode="score", scale=(0, 255), memory=2, at_once=1)
        judge(images, ["cat"] * 6)
        judge(images[4:], ["cat"] * 2)
        assert len(server.seen) == 6
        judge(images[:1], ["cat"])
        assert len(server.seen) == 7


def test_the_key_is_sent_and_kept_nowhere(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with chat(in_turn(saying(lambda request: 5), (401, {}, "bad key sk-secret"))) as server:
        judge = VLMJudge(server.url, "m", mode="score", key_env="JUDGE_KEY")
        judge(pictures(1), ["cat"])
        assert server.seen[0].headers["Authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in repr(judge) + repr(vars(judge)) and b"sk-secret" not in pickle.dumps(judge)
        with pytest.raises(JudgeError, match=r"answered 401 .*bad key \*\*\*") as caught:
            judge(pictures(1), ["dog"])
        assert "sk-secret" not in str(caught.value)
    with chat(saying(lambda request: 5)) as server:
        VLMJudge(server.url, "m", mode="score")(pictures(1), ["cat"])
        assert "Authorization" not in server.seen[0].headers


def test_a_redirect_does_not_carry_the_key_away(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with (
        chat(saying(lambda request: 5)) as other,
        chat(lambda r: (307, {"Location": other.url}, "")) as server,
        pytest.raises(JudgeError, match="answered 307"),
    ):
        VLMJudge(server.url, "m", mode="score", key_env="JUDGE_KEY")(pictures(1), ["cat"])
        assert not other.seen


# ---- failures


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_fails_for_a_while_is_asked_again(status):
    with chat(in_turn((status, {}, "busy"), (status, {}, "busy"), saying(lambda request: 5))) as server:
        judge = VLMJudge(server.url, "m", mode="score", wait=0.001)
        assert judge(pictures(1), ["cat"]).tolist() == [5]
    assert len(server.seen) == 3 and server.seen[0].body == server.seen[2].body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_fails_for_good_is_not_asked_again(status):
    with chat(lambda request: (status, {}, "no such thing")) as server:  # noqa: SIM117  # the server outlives what is raised
        with pytest.raises(JudgeError, match=rf"m at http://127.0.0.1:\d+/v1 answered {status} .*no such thing"):
            VLMJudge(server.url, "m", mode="score", wait=0.001)(pictures(1), ["cat"])
    assert len(server.seen) == 1


def test_a_failure_that_lasts_is_raised_with_its_tries():
    with chat(lambda request: (500, {}, "broken picture")) as server:  # noqa: SIM117  # the server outlives what is raised
        with pytest.raises(JudgeError, match=r"answered 500 .*broken picture, after 3 tries"):
            VLMJudge(server.url, "m", mode="score", wait=0.001, tries=3)(pictures(1), ["cat"])
    assert len(server.seen) == 3


@pytest.mark.parametrize("after", ["0.3", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_retry_after_is_honoured(after):
    told = after() if callable(after) else after
    with chat(in_turn((429, {"Retry-After": told}, "slow down"), saying(lambda request: 5))) as server:
        began = time.monotonic()
        assert VLMJudge(server.url, "m", mode="score", wait=0)(pictures(1), ["cat"]).tolist() == [5]
        assert time.monotonic() - began > 0.25  # without the header it would be asked at once
    assert len(server.seen) == 2


def test_a_server_that_wants_hours_is_not_waited_for():
    with chat(lambda request: (429, {"Retry-After": "7200"}, "quota")) as server:  # noqa: SIM117  # the server outlives what is raised
        with pytest.raises(JudgeError, match=r"answered 429 .*after 1 try; it asks to wait 7200 s"):
            VLMJudge(server.url, "m", mode="score")(pictures(1), ["cat"])
    assert len(server.seen) == 1


def test_a_slow_server_is_asked_again_and_then_named():
    with chat(in_turn(slowly(1, saying(lambda r: 4)), saying(lambda r: 5))) as server:
        assert VLMJudge(server.url, "m", mode="score", timeout=0.2, wait=0)(pictures(1), ["cat"]).tolist() == [5]
    with chat(slowly(0.5, saying(lambda request: 4))) as server:  # noqa: SIM117  # the server outlives what is raised
        with pytest.raises(JudgeError, match=r"gave no answer within 0\.1 s, after 2 tries"):
            VLMJudge(server.url, "m", mode="score", timeout=0.1, wait=0, tries=2)(pictures(1), ["cat"])


def test_a_server_that_is_gone_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(JudgeError, match=rf"no server answers at http://127\.0\.0\.1:{port}/v1 .*after 2 tries"):
        VLMJudge(f"http://127.0.0.1:{port}/v1", "m", wait=0, tries=2)(pictures(1), ["cat"])


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ((200, {}, "<html>hello</html>"), "answered no JSON.*is it the API's address"),
        ((200, {}, "[]"), "no completion"),
        ({"object": "error", "message": "x"}, "no completion"),
        (completion(None), "gave no text"),
        (completion("lovely"), "no single number"),
    ],
)
def test_what_is_no_answer_is_an_error_and_no_score(reply, named):
    with chat(lambda request: reply) as server, pytest.raises(JudgeError, match=named):
        VLMJudge(server.url, "m", mode="score")(pictures(1), ["cat"])


@pytest.mark.parametrize("top", [None, [("<think>", -0.1), ("The", -3.0)]])
def test_without_logprobs_of_yes_or_no_the_remedy_is_named(top):
    with chat(lambda request: completion("Yes", top)) as server:  # noqa: SIM117  # the server outlives what is raised
        with pytest.raises(JudgeError, match=r"gives no logprobs; take mode='score'|neither yes nor no .*<think>"):
            VLMJudge(server.url, "m")(pictures(1), ["cat"])


def test_answers_before_a_failure_are_kept():
    """What was paid for is not asked again when the search goes on."""
    images = pictures(6)
    with chat(in_turn(*[saying(lambda r: 5)] * 3, (400, {}, "no"), saying(lambda r: 6))) as server:
        judge = VLMJudge(server.url, "m", mode="score", at_once=1)
        with pytest.raises(JudgeError, match="answered 400"):
            judge(images, ["cat"] * 6)
        assert len(server.seen) == 4
        assert judge(images, ["cat"] * 6).tolist() == [5, 5, 5, 6, 6, 6]
        assert len(server.seen) == 7


def test_one_failure_ends_the_waiting_of_all():
    def answer(request):
        return (400, {}, "no") if brightness(request) < 50 else (503, {"Retry-After": "200"}, "later")

    with chat(answer) as server:
        began = time.monotonic()
        with pytest.raises(JudgeError, match="answered 400"):
            VLMJudge(server.url, "m", mode="score", at_once=6)(pictures(6), ["cat"] * 6)
        assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"base_url": "localhost:8000"}, "base_url='localhost:8000' must be http"),
        ({"base_url": "http://me:secret@host/v1"}, "without a password"),
        ({"base_url": "http://host/v1?key=secret"}, "or a query"),
        ({"mode": "rank"}, "mode='rank' is not known; choose one of yes, score, pairwise"),
        ({"scale": (5, 1)}, r"scale=\(5, 1\)"),
        ({"key_env": "NO_SUCH_KEY"}, "key_env='NO_SUCH_KEY': there is no such variable"),
        ({"at_once": 0}, "at_once=0"),
        ({"tries": 0}, "tries=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"memory": 0}, "memory=0"),
    ],
)
def test_bad_options_are_named_and_secrets_are_not(options, named):
    with pytest.raises(ValueError, match=named) as caught:
        VLMJudge(**{"base_url": "http://localhost/v1", "model": "m"} | options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("spoil", [lambda x: x * 2 - 1, lambda x: x[:, :1], lambda x: (x * 255).to(torch.uint8)])
def test_bad_images_are_refused_before_anything_is_asked(spoil):
    with chat(saying(lambda request: 5)) as server, pytest.raises(ValueError, match=r"span|reads floats"):
        VLMJudge(server.url, "m", mode="score")(spoil(pictures(2)), ["cat"] * 2)
        with pytest.raises(ValueError, match="1 prompts for 2 images"):
            VLMJudge(server.url, "m", mode="score")(pictures(2), ["cat"])
        assert not server.seen


# ---- pairs


def named(request):
    first, second = (float(picture.mean()) for picture in request.pictures)
    return "Tie" if first == second else "First" if first > second else "Second"


def test_pairs_are_asked_in_both_orders():
    images = pictures(4)
    with chat(saying(named)) as server:
        judge = VLMJudge(server.url, "m", mode="pairwise")
        shares = judge.compare(images, images[[1, 0, 2, 0]], PROMPTS[:4])
    assert shares.tolist() == [0, 1, 0.5, 1]
    assert len(server.seen) == 7  # the pair of equals has one order; 0 and 1 under two prompts have their own


def test_a_judge_that_prefers_a_place_has_no_opinion():
    with chat(saying(lambda request: "Second")) as server:
        shares = VLMJudge(server.url, "m", mode="pairwise").compare(pictures(2), pictures(2, seed=1), ["cat"] * 2)
    assert shares.tolist() == [0.5, 0.5]


def test_games_of_a_match_are_asked_anew():
    with chat(saying(named)) as server:
        judge, (a, b) = VLMJudge(server.url, "m", mode="pairwise", temperature=0.5), pictures(2)[:, None]
        for game in (0, 1, 1):
            judge.compare(a, b, ["cat"], game)
    assert sorted(request.body["seed"] for request in server.seen) == [0, 0, 1, 1]


def test_modes_are_held_apart():
    pairs, single = (VLMJudge("http://localhost/v1", "m", mode=mode) for mode in ("pairwise", "yes"))
    with pytest.raises(ValueError, match=r"mode='pairwise' judges pairs: ask its compare\(\)"):
        pairs(pictures(1), ["cat"])
    with pytest.raises(ValueError, match="mode='yes' judges one picture at a time; take mode='pairwise'"):
        single.compare(pictures(1), pictures(1), ["cat"])


# ---- in this process


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random judges, by what they say."""
    folders = {}
    for mode, says in {"yes": ("Yes", "No"), "score": ("2", "7"), "pairwise": ("First", "Second")}.items():
        folders[mode] = tmp_path_factory.mktemp(mode)
        save_tiny(folders[mode], says)
    return folders


def logits(folder, images, text):
    """transformers' own: the logits of the first token of the answer, by token."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    prompt = f"user:{'<image>' * len(images)}{text}assistant:"
    with torch.no_grad():
        last = model(**processor(images=images, text=prompt, return_tensors="pt")).logits[0, -1]
    return {token: float(last[number]) for token, number in processor.tokenizer.get_vocab().items()}


def to_pil(image):
    from PIL import Image

    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def test_local_p_yes_is_the_softmax_of_the_two_words(models):
    images = pictures(6)
    found = LocalJudge(models["yes"], "Is it {prompt}?")(images, PROMPTS)
    expected = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        said = logits(models["yes"], [to_pil(image)], f"Is it {prompt}?")
        expected.append(1 / (1 + math.exp(said["No"] - said["Yes"])))
    assert max(expected) - min(expected) > 0.01
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_local_and_served_judges_agree_through_the_top_20(models):
    """A server that computes the logprobs from what arrives, as vLLM sends them."""
    from PIL import Image

    def answer(request):
        said = logits(models["yes"], [Image.fromarray(picture) for picture in request.pictures], request.text)
        total = math.log(sum(map(math.exp, said.values())))
        top = sorted(((token, value - total) for token, value in said.items()), key=lambda pair: -pair[1])[:20]
        return completion(top[0][0], [*top, ("Yes", said["Yes"] - total), ("No", said["No"] - total)])

    images = pictures(3)
    with chat(answer) as server:
        found = VLMJudge(server.url, "m")(images, PROMPTS[:3])
    assert found.tolist() == pytest.approx(LocalJudge(models["yes"])(images, PROMPTS[:3]).tolist(), abs=0.05)


def test_local_pairs_are_asked_in_both_orders(models):
    a, b = pictures(6), pictures(6, seed=10).flip(0)
    judge = LocalJudge(models["pairwise"], mode="pairwise", max_tokens=1)
    expected = []
    for one, other, prompt in zip(a, b, PROMPTS, strict=True):
        forth, back = (
            logits(models["pairwise"], [to_pil(x), to_pil(y)], judge.question.replace("{prompt}", prompt))
            for x, y in ((one, other), (other, one))
        )
        expected.append(((forth["First"] > forth["Second"]) + (back["First"] < back["Second"])) / 2)
    assert set(expected) == {0, 0.5, 1}
    assert judge.compare(a, b, PROMPTS).tolist() == expected


def test_local_judges_name_what_is_wrong(models, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image-text model at .*hub id with download=True"):
        LocalJudge(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no image-text model could be read"):
        LocalJudge(tmp_path)
    with pytest.raises(JudgeError, match="no single number in the answer"):
        LocalJudge(models["yes"], mode="score", max_tokens=1)(pictures(1), ["cat"])


# ---- transformers serve, a server that others wrote


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def served():
    """The base_url of a running `transformers serve`."""
    if not os.environ.get("DSEARCH_ORACLES"):  # whoever asks for the oracles is told what is missing
        for package in ("fastapi", "uvicorn", "openai"):
            pytest.importorskip(package, reason="needs transformers[serving]")
    port = free_port()
    code = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, process.stderr.read()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def test_a_served_model_scores_as_the_same_one_in_this_process(served, models):
    images = pictures(6)
    found = VLMJudge(served, str(models["score"]), mode="score", max_tokens=1, at_once=3)(images, PROMPTS)
    assert set(found.tolist()) == {2, 7}
    assert torch.equal(found, LocalJudge(models["score"], mode="score", max_tokens=1)(images, PROMPTS))


def test_a_served_model_compares_as_the_same_one_in_this_process(served, models):
    a, b = pictures(6), pictures(6, seed=10).flip(0)
    found = VLMJudge(served, str(models["pairwise"]), mode="pairwise", max_tokens=1).compare(a, b, PROMPTS)
    expected = LocalJudge(models["pairwise"], mode="pairwise", max_tokens=1).compare(a, b, PROMPTS)
    assert set(found.tolist()) == {0, 0.5, 1} and torch.equal(found, expected)


def test_a_server_without_logprobs_is_told_apart(served, models):
    with pytest.raises(JudgeError, match="gives no logprobs; take mode='score'"):
        VLMJudge(served, str(models["yes"]))(pictures(1), ["cat"])


def test_an_unknown_model_is_an_error(served):
    with pytest.raises(JudgeError, match=r"no/such-model at .* answered [45]\d\d .*after 1 try"):
        VLMJudge(served, "no/such-model", mode="score", tries=1)(pictures(1), ["cat"])


def test_what_the_server_cannot_read_is_an_error_with_its_tries(served, models):
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [broken]}]}
    with pytest.raises(JudgeError, match=r"answered 500 .*after 2 tries"):
        VLMJudge(served, str(models["score"]), mode="score", tries=2, wait=0, extra=body)(pictures(1), ["cat"])
