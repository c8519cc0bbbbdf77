"""Makes the packed format known to diffusers, without importing it: now if it is imported already, else when it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

QUANT_METHOD = "effcli_mpq"
"""How ``config.json`` names the format to diffusers."""

_TABLES = "diffusers.quantizers.auto"
"""The module of diffusers with its tables of quantization methods."""


def register_with_diffusers() -> None:
    """Let ``from_pretrained`` read packed models; a second call changes nothing."""
    if _TABLES in sys.modules:
        _register(sys.modules[_TABLES])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(MetaPathFinder):
    """Registers right after diffusers has made its tables; then it is no longer asked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLES:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        make = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            make(module)
            _register(module)

        loader.exec_module = exec_module
        return spec


def _register(tables: Any) -> None:
    from effcli.quantize.loaded.diffusers_quantizer import PackedConfig, PackedQuantizer

    tables.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = PackedQuantizer
    tables.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = PackedConfig
