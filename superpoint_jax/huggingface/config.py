"""The configuration under transformers' names, with the methods of its class; it reads and writes config.json."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import superpoint_jax.config
from superpoint_jax.hub import CONFIG_FILE, fetch_file, is_hub_id, split_options
from superpoint_jax.huggingface.arrays import type_name
from superpoint_jax.huggingface.pushing import Pushable
from superpoint_jax.processing.options_file import read_options
from superpoint_jax.weights.config_json import HUGGING_FACE_FIELDS, from_config_json, make_config, to_config_json
from superpoint_jax.weights.writing import checked_folder

COMMON: dict[str, Any] = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "dtype": None,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
    "transformers_version": None,
}
"""Options that every configuration of transformers has, and their defaults. Only `output_hidden_states` and
`return_dict` have an effect here."""

DEFAULTS: dict[str, Any] = {
    name: getattr(superpoint_jax.config.SuperPointConfig(), name) for name in HUGGING_FACE_FIELDS
}


class Config(Pushable):
    """Options as attributes, under transformers' names; unknown ones are kept and saved again."""

    model_type: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]

    def __init__(self, **options: Any) -> None:
        labels = options.pop("num_labels", None)
        self._name_or_path = str(options.pop("name_or_path", options.pop("_name_or_path", "")))
        options.pop("model_type", None)
        if "torch_dtype" in options:
            given = options.pop("torch_dtype")
            options["dtype"] = options.get("dtype") or given
        for name, value in {**copy.deepcopy({**COMMON, **self.defaults}), **options}.items():
            setattr(self, name, value)
        self.dtype = None if self.dtype is None else type_name(self.dtype)
        if self.id2label is not None:
            self.id2label = {int(key): value for key, value in self.id2label.items()}
        if labels is not None:
            self.num_labels = labels

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no option {name!r} in this configuration; there are {', '.join(sorted(self.__dict__))}")

    @property
    def num_labels(self) -> int:
        """Number of labels. The models use none; the default of transformers is 2."""
        return len(self.id2label or {})

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        """Makes new names for this many labels."""
        self.id2label = {i: f"LABEL_{i}" for i in range(count)}
        self.label2id = {name: i for i, name in self.id2label.items()}

    @property
    def name_or_path(self) -> str:
        """Where the configuration was read from; it is not saved."""
        return self._name_or_path

    @property
    def use_return_dict(self) -> bool:
        """`return_dict`, under its other name."""
        return bool(self.return_dict)

    def to_dict(self) -> dict[str, Any]:
        """Every option, including unknown ones."""
        return copy.deepcopy({**self.__dict__, "model_type": self.model_type})

    def to_diff_dict(self) -> dict[str, Any]:
        """The options of the model, and those of the others that differ from their defaults."""
        everything = {name: value for name, value in self.to_dict().items() if name != "_name_or_path"}
        return {name: value for name, value in everything.items() if name not in COMMON or value != COMMON[name]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict` or `to_dict` as JSON."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` to a file."""
        Path(path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def update(self, options: Mapping[str, Any]) -> None:
        """Set several options."""
        for name, value in options.items():
            setattr(self, name, value)

    def save_pretrained(self, folder: str | os.PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json into a folder, which is created if it does not exist.

        With `push_to_hub=True`, also push it to the hub; `options` are those of the method `push_to_hub`.

        Raises:
            NotADirectoryError: `folder` is a file.
        """
        path = checked_folder(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.to_json_file(path / CONFIG_FILE)
        self._pushed(folder, push_to_hub, options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """The configuration of a dictionary, with some options changed.

        With `return_unused_kwargs`, the result is a pair: the configuration, and the changes that are not options of
        it. These are not set.
        """
        values = copy.deepcopy(dict(values))
        unused = {}
        if return_unused_kwargs:
            known = {*COMMON, *cls.defaults, *values}
            unused = {name: value for name, value in changes.items() if name not in known}
        config = cls(**{**values, **{name: value for name, value in changes.items() if name not in unused}})
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """The configuration of a JSON file."""
        return cls(**read_options(Path(path)))

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Any:
        """The configuration of a folder, a config.json or a repository of the hub, with some options changed.

        Args:
            source: A path or a hub id.
            **options: Options that replace the stored ones; options for the hub, see `superpoint_jax.hub.HubOptions`;
                and `return_unused_kwargs`, see `from_dict`.

        Raises:
            FileNotFoundError: There is no such file.
            HubError: The hub does not have it or cannot be reached. An `OSError`.
            ValueError: The file does not hold a JSON object.
        """
        values, options = cls.get_config_dict(source, **options)
        return cls.from_dict(values, **options)

    @classmethod
    def get_config_dict(cls, source: str | os.PathLike[str], **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of the source's config.json, and the options without those for the hub."""
        hub, options = split_options(options)
        path: Path | None = Path(source).expanduser()
        if path.is_dir():
            path = path / (hub.get("subfolder") or "") / CONFIG_FILE
        elif not path.exists() and isinstance(source, str) and is_hub_id(source):
            path = fetch_file(source, CONFIG_FILE, **hub)
        if path is None or not path.is_file():
            raise FileNotFoundError(f"{source} has no {CONFIG_FILE}; give a folder, that file or a hub id")
        return read_options(path), options

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # Its options can change.

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def _save_for_hub(self, folder: Path) -> None:
        self.save_pretrained(folder)


class SuperPointConfig(Config):
    """Options of a SuperPoint as attributes, under transformers' names and with its defaults.

    You may set them: at every call the model reads those that do not shape its network. Unknown options are kept and
    saved again. The attribute `superpoint_jax` holds options that transformers has no name for; it exists where a model
    follows other rules than transformers. `to_superpoint_jax` returns all of them as a
    `superpoint_jax.SuperPointConfig`.
    """

    model_type = "superpoint"
    defaults = DEFAULTS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.encoder_hidden_sizes = list(self.encoder_hidden_sizes)
        self.to_superpoint_jax()  # Raises an error if an option is wrong.

    @classmethod
    def from_superpoint_jax(cls, config: superpoint_jax.config.SuperPointConfig, **changes: Any) -> Self:
        """The same options under transformers' names."""
        return cls(**{**to_config_json(config), **changes})

    def to_superpoint_jax(self) -> superpoint_jax.config.SuperPointConfig:
        """The same options as the library's own configuration.

        Raises:
            WeightsError: An option has a value that no SuperPoint has. A `ValueError`.
        """
        origin = self._name_or_path or "the configuration"
        fields = from_config_json(self.to_diff_dict(), origin=origin)
        return make_config("huggingface", fields, origin=origin)
