"""The classifier reward against the model's own logits."""

import pytest
import torch

from dsearch.rewards import Classifier
from dsearch.rewards.classifier import example

IMAGES = torch.rand(4, 3, 40, 36, generator=torch.Generator().manual_seed(0))
PROMPTS = ["cat", "tree", "dog", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    reward, folder = example(), tmp_path_factory.mktemp("classifier")
    reward._model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 32, "crop_size": 32}')
    return folder


def test_scores_are_the_models_log_probabilities(folder):
    reward = Classifier(folder)
    with torch.no_grad():
        log_p = reward._model(pixel_values=reward.preprocess(IMAGES)).logits.log_softmax(-1)
    expected = [log_p[i, ["cat", "dog", "tree"].index(p)].item() for i, p in enumerate(PROMPTS)]
    assert reward(IMAGES, PROMPTS).tolist() == pytest.approx(expected, abs=1e-6)
    for label in ("dog", 1, lambda prompt: "dog", lambda prompt: 1):
        assert Classifier(folder, label)(IMAGES, PROMPTS).tolist() == pytest.approx(log_p[:, 1].tolist(), abs=1e-6)
    assert (log_p <= 0).all()


def test_what_is_missing_or_wrong_is_named(folder, tmp_path):
    for label in ("bird", 3):
        with pytest.raises(ValueError, match=r"is none of this classifier's 3: cat, dog, tree"):
            Classifier(folder, label)
    with pytest.raises(ValueError, match="label 'a red bird' is none"):
        Classifier(folder)(IMAGES[:1], ["a red bird"])
    with pytest.raises(FileNotFoundError, match="there is no such directory; give a directory with"):
        Classifier(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no classifier could be read from"):
        Classifier("nobody/no-such")
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json, model\.safetensors, preprocessor_config\.json"):
        Classifier(tmp_path)
