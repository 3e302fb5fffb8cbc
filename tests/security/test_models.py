"""A model is data: what its folder holds beside its weights is not run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ingestq.core.errors import ModelUnavailable
from tests.tiny_models import TinyModels
from worker.embedding.config import EmbeddingConfig
from worker.embedding.preparation import prepare_model

CODE = """
from pathlib import Path

Path({marker!r}).touch()

from transformers import BertConfig, BertModel
from sentence_transformers.sentence_transformer.modules import Transformer


class OwnModule(Transformer):
    pass


class OwnModel(BertModel):
    pass


class OwnConfig(BertConfig):
    model_type = "own"
"""


def changed(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")


def names_a_module(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [modules[0] | {"type": "own.OwnModule"}, *modules[1:]]


def names_a_model(config: dict[str, Any]) -> dict[str, Any]:
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    return config | {"model_type": "own", "architectures": ["OwnModel"], "auto_map": classes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change"), [("modules.json", names_a_module), ("config.json", names_a_model)]
)
async def test_code_in_the_folder_of_a_model_is_not_run(
    file: str, change: Any, tiny_models: TinyModels, tmp_path: Path
) -> None:
    marker = tmp_path / "it was run"
    model = Path(shutil.copytree(tiny_models.model("prompts"), tmp_path / "model"))
    (model / "own.py").write_text(CODE.format(marker=str(marker)), "utf-8")
    changed(model / file, change)
    with pytest.raises(ModelUnavailable) as refused:
        await prepare_model(EmbeddingConfig(tmp_path / "cache", str(model)))
    assert str(model) in str(refused.value)
    assert not marker.exists()
