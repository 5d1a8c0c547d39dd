"""A vision-language model as the judge: over a chat API, or in this process."""

import base64
import email.utils
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, ClassVar
from urllib.parse import urlsplit

import torch

from dsearch._torchvision import mend
from dsearch.rewards._judging import Job, Judge, JudgeError, Mode, bare, yes_share
from dsearch.rewards.clip_score import HUB_ID

__all__ = ["JudgeError", "LocalJudge", "VLMJudge"]

PASSING = {408, 429, 500, 502, 503, 504, 529}  # what another try may mend
LONGEST_WAIT = 300.0  # seconds that a server may ask for


class VLMJudge(Judge):
    """A judge behind any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, a hosted model.

    By its mode it says

    - "yes": P(yes) / (P(yes) + P(no)) of the first token, in [0, 1]; the server must give logprobs;
    - "score": the number that its answer names, on `scale`;
    - "pairwise": which of two pictures is better: no reward, but what `compare` asks, for tournaments.

    Requests are made by up to `at_once` threads, answers keep the order of the pictures, and a picture is asked about
    once for each prompt. What fails for a while (408, 429, 5xx, a time-out, a server that refuses connections) is asked
    again, after as long as the server's Retry-After says or else `wait` seconds, doubled each time. What fails for
    good raises: no failure becomes a score.

    Args:
        base_url: where the API is, such as "http://localhost:8000/v1".
        model: as the server calls it.
        question: `{prompt}` in it becomes the prompt, `{low}` and `{high}` the scale; None for a plain one of the mode.
        mode: what is asked, as above.
        scale: the lowest and highest number that "score" takes.
        key_env: the environment variable that holds the key; None sends none. The key is read for each request, and
            kept nowhere.
        at_once: requests in flight.
        timeout: seconds to wait for an answer.
        tries: of one request.
        wait: seconds before the second try.
        max_tokens: of an answer; "yes" takes one.
        edge: longest edge, in pixels, of what is sent; larger pictures are shrunk, which saves tokens. None sends all.
        temperature: of the answers; above 0 they are noise, of use in matches of several games.
        extra: fields of the request's body besides; None as a value takes a field out.
        memory: answers kept.

    Raises:
        ValueError: for a URL that is none or holds a password or query, a key that is not in the environment, and
            other arguments out of range.
    """

    on_host: ClassVar[bool] = True

    def __init__(
        self,
        base_url: str,
        model: str,
        question: str | None = None,
        mode: Mode = "yes",
        *,
        scale: tuple[float, float] = (1, 10),
        key_env: str | None = None,
        at_once: int = 8,
        timeout: float = 60.0,
        tries: int = 6,
        wait: float = 1.0,
        max_tokens: int = 256,
        edge: int | None = None,
        temperature: float = 0.0,
        extra: Mapping[str, Any] | None = None,
        memory: int = 100_000,
    ) -> None:
        super().__init__(question, mode, scale, memory)
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            shown = f"{parts.scheme}://{parts.hostname}" if parts.username or parts.query else base_url
            raise ValueError(
                f"base_url={shown!r} must be http(s)://host/v1 or the like, without a password or a query; "
                "keys come from the environment, see key_env"
            )
        if key_env is not None and not os.environ.get(key_env):
            raise ValueError(f"key_env={key_env!r}: there is no such variable in the environment; export it")
        for name, number, least in (("at_once", at_once, 1), ("tries", tries, 1), ("max_tokens", max_tokens, 1)):
            if number < least:
                raise ValueError(f"{name}={number}; choose at least {least}")
        if not timeout > 0 or wait < 0 or temperature < 0 or (edge is not None and edge < 1):
            raise ValueError(
                f"timeout={timeout} must be above 0, wait={wait} and temperature={temperature} at least 0, "
                f"edge={edge} at least 1"
            )
        self.base_url, self.model, self.key_env = base_url.rstrip("/"), model, key_env
        self.at_once, self.timeout, self.tries, self.wait = at_once, timeout, tries, wait
        self.max_tokens, self.edge, self.temperature = max_tokens, edge, temperature
        self.extra = dict(extra or {})

    def __repr__(self) -> str:
        return f"VLMJudge({self.base_url!r}, {self.model!r}, {self.question!r}, mode={self.mode!r})"

    def _answers(self, jobs: list[Job], keys: list[bytes]) -> None:
        stop = Event()

        def ask(job: Job, key: bytes) -> None:
            try:
                if not stop.is_set():
                    self._remember(key, self._answer(*job, stop))
            except BaseException:
                stop.set()  # the others give up too: what they would cost is in vain
                raise

        with ThreadPoolExecutor(min(self.at_once, len(jobs)), thread_name_prefix="judge") as pool:
            asked = [pool.submit(ask, job, key) for job, key in zip(jobs, keys, strict=True)]
            try:
                failures = [failure for failure in (future.exception() for future in asked) if failure]
            except BaseException:  # an interrupt
                stop.set()
                raise
        for failure in failures:
            if not isinstance(failure, _Stopped):
                raise failure

    def _answer(self, pictures: list[Any], text: str, game: int, stop: Event) -> float:
        reply = self._post(self._body(pictures, text, game), stop)
        try:
            choice = reply["choices"][0]
            if self.mode == "yes":
                first = ((choice.get("logprobs") or {}).get("content") or [{}])[0]
                tokens = first.get("top_logprobs") or []
                if not tokens:
                    raise JudgeError(
                        f"{self.model} at {self.base_url} gives no logprobs; take mode='score', or a server that does"
                    )
                return yes_share((token["token"], token["logprob"]) for token in tokens)
            answer = choice["message"]["content"]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise JudgeError(f"{self.base_url} answered with no completion: {str(reply)[:300]}") from error
        if not isinstance(answer, str):
            raise JudgeError(f"{self.model} gave no text: {str(choice)[:300]}")
        return self._read(answer)

    def _body(self, pictures: list[Any], text: str, game: int) -> bytes:
        images = [{"type": "image_url", "image_url": {"url": self._url(picture)}} for picture in pictures]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.temperature:
            body |= {"seed": game}
        if self.mode == "yes":
            body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        body |= self.extra
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    def _url(self, picture: Any) -> str:
        if self.edge is not None:
            picture.thumbnail((self.edge, self.edge))
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    def _post(self, body: bytes, stop: Event) -> dict[str, Any]:
        for attempt in range(self.tries):
            try:
                return self._once(body)
            except _Passing as failure:
                pause = self.wait * 2**attempt if failure.after is None else failure.after
                if attempt + 1 == self.tries or pause > LONGEST_WAIT:
                    asks = f"; it asks to wait {pause:.0f} s" if pause > LONGEST_WAIT else ""
                    times = f"{attempt + 1} tries" if attempt else "1 try"
                    raise JudgeError(f"{failure}, after {times}{asks}") from failure.__cause__
            if stop.wait(pause):
                raise _Stopped
        raise AssertionError  # pragma: no cover  # the last try returns or raises

    def _once(self, body: bytes) -> dict[str, Any]:
        key = os.environ.get(self.key_env, "") if self.key_env else ""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, headers)
        try:
            with OPENER.open(request, timeout=self.timeout) as response:
                said = response.read()
        except urllib.error.HTTPError as error:
            with error:
                why = error.read(2000).decode(errors="replace")
            why = (why.replace(key, "***") if key else why)[:300]
            problem = f"{self.model} at {self.base_url} answered {error.code} {error.reason}: {why}"
            if error.code in PASSING:
                raise _Passing(problem, _seconds(error.headers.get("Retry-After"))) from error
            raise JudgeError(problem) from error
        except OSError as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                raise _Passing(f"{self.base_url} gave no answer within {self.timeout:g} s") from error
            problem = f"no server answers at {self.base_url} ({cause})"
            if isinstance(cause, ConnectionError):  # it may be on its way up again
                raise _Passing(problem) from error
            raise JudgeError(problem) from error
        try:
            reply = json.loads(said)
        except ValueError as error:
            raise JudgeError(f"{self.base_url} answered no JSON: {said[:200]!r}; is it the API's address?") from error
        if not isinstance(reply, dict):
            raise JudgeError(f"{self.base_url} answered with no completion: {said[:200]!r}")
        return reply


class _Passing(Exception):
    """A failure that another try may mend, after so many seconds where the server says so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _Stopped(Exception):
    """Another request failed for good."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would carry the key to another place."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says: a number of seconds, or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


class LocalJudge(Judge):
    """The same judge in this process: any image-text model of transformers with a chat template.

    Modes, questions and scale are those of `VLMJudge`; "yes" reads the probabilities of all spellings of yes and no
    as the first token. Pictures are asked about one by one, so that no answer depends on batch-mates.

    Args:
        path: directory (or hub id, with `download=True`) of an `AutoModelForImageTextToText` and its processor.
        question: as for `VLMJudge`.
        mode: as for `VLMJudge`.
        scale: the lowest and highest number that "score" takes.
        device: of the model; None follows the images.
        dtype: of the model; None is float32.
        max_tokens: of an answer; "yes" takes one.
        download: whether a hub id may be fetched.
        memory: answers kept.

    Raises:
        FileNotFoundError: where there is no such model.
        ValueError: for a model without a chat template, or whose vocabulary has no yes and no; arguments out of range.
    """

    def __init__(
        self,
        path: str | Path,
        question: str | None = None,
        mode: Mode = "yes",
        *,
        scale: tuple[float, float] = (1, 10),
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_tokens: int = 256,
        download: bool = False,
        memory: int = 100_000,
    ) -> None:
        super().__init__(question, mode, scale, memory)
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}; choose at least 1")
        model, self._processor = _load(path, download)
        self.max_tokens = max_tokens
        self.device = None if device is None else torch.device(device)
        self._model = model.eval().requires_grad_(False).to(device=self.device, dtype=dtype or torch.float32)
        vocabulary = self._processor.tokenizer.get_vocab()
        self._words = {number: token for token, number in vocabulary.items() if bare(token) in ("yes", "no")}
        if mode == "yes" and {bare(token) for token in self._words.values()} != {"yes", "no"}:
            raise ValueError(f"the vocabulary at {str(path)!r} has no token for yes or none for no; take mode='score'")

    def __call__(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        """Images `[N, 3, H, W]` and their prompts -> what the judge says of each, `[N]`.

        Raises:
            JudgeError: for an answer that cannot be read.
            ValueError: for a judge of pairs, and images that are not in [0, 1].
        """
        self._follow(images)
        return super().__call__(images, prompts)

    def compare(self, first: torch.Tensor, second: torch.Tensor, prompts: Any, game: int = 0) -> torch.Tensor:
        """As `VLMJudge.compare`; every game of a match ends alike."""
        self._follow(first)
        return super().compare(first, second, prompts, 0)

    def _follow(self, images: torch.Tensor) -> None:
        if self.device is None and self._model.device != images.device:
            self._model.to(images.device)

    def _answers(self, jobs: list[Job], keys: list[bytes]) -> None:
        for (pictures, text, _), key in zip(jobs, keys, strict=True):
            self._remember(key, self._answer(pictures, text))

    @torch.inference_mode()
    def _answer(self, pictures: list[Any], text: str) -> float:
        parts = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
        chat = self._processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        inputs = self._processor(images=pictures, text=chat, return_tensors="pt").to(self._model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        if self.mode == "yes":
            log_p = self._model(**inputs).logits[0, -1].float().log_softmax(-1).tolist()
            return yes_share((token, log_p[number]) for number, token in self._words.items())
        made = self._model.generate(**inputs, do_sample=False, max_new_tokens=self.max_tokens)
        tokens = made[0, inputs["input_ids"].shape[1] :]
        return self._read(self._processor.tokenizer.decode(tokens, skip_special_tokens=True))


def _load(path: str | Path, download: bool) -> tuple[Any, Any]:
    mend()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name, local = str(path), {"local_files_only": not download}
    remedy = "give a directory with such a model and its processor, or a hub id with download=True"
    if not Path(path).is_dir() and (isinstance(path, Path) or not HUB_ID.fullmatch(name)):
        raise FileNotFoundError(f"no image-text model at {name!r}: there is no such directory; {remedy}")
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(name, output_loading_info=True, **local)
        processor = AutoProcessor.from_pretrained(name, **local)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no image-text model could be read from {name!r}; {remedy}") from error
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"the image-text model at {name!r} is damaged or none ({error}); {remedy}") from error
    if info["missing_keys"]:  # transformers would fill them with random numbers and judge on
        raise ValueError(f"{name!r} is no whole model: it lacks {sorted(info['missing_keys'])[:3]} ...")
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"the model at {name!r} has no chat template; judges are asked in a chat")
    return model, processor


def example() -> LocalJudge:
    """A tiny random judge, made on the spot, for the law suite."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_tiny(Path(folder))
        return LocalJudge(folder)


def save_tiny(folder: Path, says: tuple[str, str] = ("Yes", "No")) -> None:
    """A random LLaVA of two layers that says one of two words, and little else, for tests."""
    mend()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<image>", "<s>", "</s>", "<pad>"]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Yes", "No", "First", "Second", "Tie"]
    words += [word for word in says if word not in words]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate([*special, *words])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    LlavaProcessor(
        pictures, fast, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8),
        text_config=LlamaConfig(**sizes, vocab_size=len(special) + len(words), max_position_embeddings=2048,
                    bos_token_id=1, eos_token_id=2, pad_token_id=3),
        image_token_id=0, vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
        head = model.get_output_embeddings().weight
        direction = head[0].clone()
        head.zero_()
        for word, sign in zip(says, (1, -1), strict=True):
            head[tokenizer.token_to_id(word)] = sign * direction
    model.save_pretrained(folder)


TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
