"""Environments by name: gymnasium's, MinAtar's, Atari's, installed packages', and a function of the user's own."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from effcli.core.errors import InputError, UsageError
from effcli.data.picture_folders import say_once
from effcli.rl_distill.environments.copies import EnvironmentFailure, Environments, reason_of
from effcli.rl_distill.recipe import RlDistillRecipe

_PACKAGES = {
    "MinAtar/": ("minatar.gym", "pip install 'effcli[minatar]'"),
    "MiniGrid-": ("minigrid", "pip install minigrid"),
    "BabyAI-": ("minigrid", "pip install minigrid"),
    "effcli/": ("effcli.rl_distill.environments.distractors", ""),
}
"""Beginnings of ids to the module that registers them, and how it is installed."""
_ATARI = "ALE"
_OLD_ATARI = re.compile(r"^([A-Za-z]+?)(-ram)?(NoFrameskip|Deterministic)-v\d$")
_FUNCTION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_FILE = re.compile(r"^(?:.*[/\\])?([^/\\:]+)\.py(?::(.*))?$")
_PLAIN_TEXT = re.compile(r"^[A-Za-z0-9_. -]{0,64}$")


def environments_of(recipe: RlDistillRecipe, copies: int | None = None) -> Environments:
    """The environments that a policy of a recipe learns in; or, to play, about ``copies`` in this process.

    Raises:
        UsageError: as :func:`make_environments`.
    """
    env = recipe.env
    return make_environments(
        env.id,
        copies or env.copies,
        workers=0 if copies else env.workers,
        kwargs={**env.kwargs, **recipe.eval.kwargs} if copies else env.kwargs,
        bounds=env.action_bounds,
        hidden=env.hidden,
        exactly=copies is None,
    )


def make_environments(
    name: str,
    copies: int,
    *,
    workers: int = 0,
    render: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    bounds: Literal["clip", "squash"] = "clip",
    hidden: Sequence[str] = (),
    exactly: bool = True,
) -> Environments:
    """Make copies of an environment.

    Args:
        name: a gymnasium id; ``MinAtar/NAME-v1``; ``ALE/NAME-v5``, which is ale-py's own vectorised environment with
            raw rewards, whole games and no sticky actions; ``package:ID``, which imports the package first; or
            ``module:function`` that makes a gymnasium environment, or a vector environment of its argument
            ``num_envs``.
        copies: number of copies, 1 or more.
        workers: 0 steps the copies in turn, or all at once where the environment is vectorised; more steps each copy in
            a process of its own, or all of them in this many threads for Atari.
        render: whether :meth:`Environments.rendered` will be called.
        kwargs: handed to the environment when it is made.
        bounds: how continuous actions are kept within their bounds.
        hidden: names of parts of observations that policies do not see.
        exactly: refuse a function that makes a vector environment of another number of copies.

    Raises:
        UsageError: the environment is unknown, cannot be made, or its package is missing; or no policy reads its
            observations or decides on its actions.
    """
    import gymnasium

    _check_name(name)
    more = dict(kwargs or {})
    try:
        with _explained(name):
            if name.startswith(f"{_ATARI}/"):
                return Environments(
                    _atari(name, copies, workers, more), name, stacked=True, bounds=bounds, hidden=hidden
                )
            _register(name)
            if _FUNCTION.match(name):
                env = _of_function(_function(name), copies, workers, more, name)
                if exactly and env.num_envs != copies:
                    raise UsageError(
                        f"makes {env.num_envs} copies, not {copies}",
                        place=name,
                        hint=f"add -s env.copies={env.num_envs}, or give the function an argument num_envs",
                    )
            else:
                env = _of_id(_imported(name), copies, workers, render, more)
            made = Environments(env, name, stacked=_stacks_frames(env), bounds=bounds, hidden=hidden)
            if made.observed.mask is None and _has_mask_method(env):
                say_once(
                    f"{name}: its action_masks() is not read, so every action may be taken; "
                    "give the mask as info['action_mask'] of reset and step"
                )
            return made
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(
            f"needs a package that is not installed: {' '.join(str(error).split())}", place=name
        ) from None
    except gymnasium.error.UnregisteredEnv as error:
        raise _unknown(name, error) from None
    except gymnasium.error.Error as error:
        raise UsageError(" ".join(str(error).split()), place=name) from None


def _check_name(name: str) -> None:
    """Refuse what is the name of something else than an environment."""
    if old := _OLD_ATARI.match(name):
        hint = f"ALE/{old[1]}-v5 is this game with the usual preprocessing"
        raise UsageError("is Atari without preprocessing", place=name, hint=hint)
    if file := _FILE.match(name):
        inside = file[2] or "NAME"
        hint = (
            f"start in its folder, with --env {file[1]}:{inside} ({inside} being a class or function in it)"
        )
        raise UsageError("is a file, not a module", place=name, hint=hint)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Exceptions of the environment's own code while it is made, as mistakes that are explained."""
    import gymnasium

    try:
        yield
    except (UsageError, gymnasium.error.Error):
        raise
    except ImportError as error:
        raise UsageError(f"needs a package that is not installed: {error}", place=name) from None
    except EnvironmentFailure as error:
        raise UsageError(" ".join(str(error).split()), place=name) from None
    except Exception as error:
        text = " ".join(reason_of(error).split())[:200]
        raise UsageError(f"cannot be made: {text}", place=name) from None


def _of_id(name: str, copies: int, workers: int, render: bool, more: dict[str, Any]) -> Any:
    import gymnasium

    spec = gymnasium.spec(name)
    mode = "vector_entry_point" if spec.vector_entry_point and not render else "sync"
    mode = "async" if workers else mode
    if render:
        more = {**more, "render_mode": "rgb_array"}
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame renders without a screen
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame would greet on stdout
    return gymnasium.make_vec(name, num_envs=copies, vectorization_mode=mode, **more)


def _of_function(make: Any, copies: int, workers: int, more: dict[str, Any], name: str) -> Any:
    """The copies that a function makes: of one environment, or all of them as a vector environment."""
    import gymnasium

    if not callable(make):
        raise UsageError("is not a function", place=name)
    takes = _parameters(make)
    first = make(**more, **({"num_envs": copies} if "num_envs" in takes else {}))
    if isinstance(first, gymnasium.vector.VectorEnv):
        if workers:
            raise UsageError("makes a vector environment, which --workers cannot divide", place=name)
        return first
    if not isinstance(first, gymnasium.Env):
        raise UsageError(
            f"returns {type(first).__name__}, not a gymnasium environment",
            place=name,
            hint="environments of gym derive from another class; wrap them, for example with shimmy",
        )
    if workers:
        first.close()
        return gymnasium.vector.AsyncVectorEnv([lambda: make(**more)] * copies)
    made = iter([first])
    return gymnasium.vector.SyncVectorEnv([lambda: next(made, None) or make(**more)] * copies)


def _parameters(make: Any) -> set[str]:
    try:
        return set(inspect.signature(make).parameters)
    except (ValueError, TypeError):
        return set()


def _has_mask_method(env: Any) -> bool:
    """Whether environments tell allowed actions as sb3-contrib asks for."""
    one = env.envs[0] if isinstance(getattr(env, "envs", None), list | tuple) else None
    return bool(getattr(one, "has_wrapper_attr", lambda name: False)("action_masks"))


def _stacks_frames(env: Any) -> bool:
    """Whether a wrapper of gymnasium stacks frames over time."""
    import gymnasium

    one = env.envs[0] if isinstance(env, gymnasium.vector.SyncVectorEnv) else None
    while isinstance(one, gymnasium.Wrapper):
        if isinstance(one, gymnasium.wrappers.FrameStackObservation):
            return True
        one = one.env
    return False


def check_registered(name: str, kwargs: Mapping[str, Any] | None, place: str) -> None:
    """Refuse an environment that a file names unless it is the id of one: a file imports and runs nothing else.

    Args:
        name: of the environment, as the file says it.
        kwargs: for the environment, as the file says them; values that could name a file or code are refused.
        place: the file.

    Raises:
        InputError: it is ``module:function`` or ``package:id``, or an argument is no plain value.
    """
    if ":" in name:
        raise InputError(
            f"names Python code as its environment, {name!r}, which is not run because a file says so",
            place=place,
            hint=f"if you trust this code, add --env {name}",
        )
    odd = [key for key, value in (kwargs or {}).items() if not _is_plain(value)]
    if odd:
        raise InputError(
            f"gives its environment an argument that may name a file or code, {odd[0]}={kwargs and kwargs[odd[0]]!r}",
            place=place,
            hint="if you trust it, add --env and --env-kwargs",
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return (
        value is None
        or isinstance(value, bool | int | float)
        or (isinstance(value, str) and bool(_PLAIN_TEXT.match(value)))
    )


def _atari(name: str, copies: int, workers: int, more: dict[str, Any]) -> Any:
    from ale_py.vector_env import AtariVectorEnv

    game = name.split("/")[1].rsplit("-v", 1)[0]
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in game).lstrip("_")
    settings = {"num_threads": workers, "reward_clipping": False, "episodic_life": False, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of an unknown game, and fails then
        return AtariVectorEnv(snake, copies, **settings)


def _register(name: str) -> None:
    """Import the package that registers the environment, where gymnasium does not know it yet."""
    import gymnasium

    beginning = next((one for one in _PACKAGES if name.startswith(one)), None)
    if beginning is None or name in gymnasium.registry:
        return
    module, line = _PACKAGES[beginning]
    try:
        package = importlib.import_module(module)
    except ImportError:
        package_name = beginning.rstrip("/-") if beginning == "MinAtar/" else module
        raise UsageError(
            f"needs the package {package_name}, which is not installed", place=name, hint=line
        ) from None
    if hasattr(package, "register_envs"):
        package.register_envs()


def _imported(name: str) -> str:
    """The id of ``package:ID``, whose package is imported; other ids as they are."""
    package, colon, env_id = name.rpartition(":")
    if colon:
        _import(package, name)
    return env_id


def _import(module: str, name: str) -> Any:
    """Import a module, which may be in the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot be imported: {error}", place=name) from None


def _function(name: str) -> Any:
    """The function ``module:function``; the module may be in the current folder."""
    module, _, function = name.partition(":")
    found = _import(module, name)
    try:
        for part in function.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"cannot be imported: {error}", place=name) from None
    return found


def _unknown(name: str, error: Exception) -> UsageError:
    from difflib import get_close_matches

    import gymnasium

    near = get_close_matches(name, gymnasium.registry, n=1)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else "name a gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5, package:ID or module:function"
    )
    return UsageError(f"no such environment: {' '.join(str(error).split())[:120]}", place=name, hint=hint)
