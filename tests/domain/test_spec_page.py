import re
from pathlib import Path

from pydantic import BaseModel

from eatnas_db.domain.spec import SearchSpec
from eatnas_db.domain.spec_objective import MetricSpec
from eatnas_db.domain.spec_space import MacroSpec

PAGE = (Path(__file__).parents[2] / "docs" / "search-spec.md").read_text()
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    defaults = {}
    for field_name, field in model.model_fields.items():
        name = field.alias or field_name
        if field.is_required():
            default = "required"
        elif field.default is None:
            default = "none"
        elif isinstance(field.default, BaseModel):
            default = "all defaults"
        else:
            default = f"`{field.default}`"
        defaults[prefix + name] = default
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            defaults |= fields(field.annotation, f"{prefix}{name}.")
    return defaults


def test_page_lists_exactly_the_keys_with_their_defaults():
    rows = {key: default for key, default, _ in ROW.findall(PAGE)}
    assert rows == fields(SearchSpec) | fields(MacroSpec, "space.") | fields(MetricSpec, "metric.")


def test_page_lists_every_choice():
    training = ("none", "flip", "shift", "crop_flip", "float32", "bfloat16")
    for choice in (*training, "oldest", "worst", "mixed", "quality_flat", "survivors"):
        assert f"`{choice}`" in PAGE
