"""Who says what a setting is, and who is heard first.

From the top: an option; the variable `DISPATCHCTL_SECTION__KEY`; the user's table `[repositories."PATH"]`; the
repository's own `.dispatchctl.toml`; the rest of the user's file; the default. The user's word about a repository
outranks that repository's word about itself. A key that is unknown, or that its place may not set, is an error.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dispatchctl.config import toml
from dispatchctl.config.environment import Environment
from dispatchctl.config.table import SECTIONS, SETTINGS, Scope, Sections, Setting
from dispatchctl.errors import UsageError

REPOSITORY_FILE = ".dispatchctl.toml"
OPTION = "option"
DEFAULT = "default"

_PREFIX = "DISPATCHCTL_"
_OWN_TABLES = ("agents", "repositories")
_IN_USER_FILE = frozenset(Scope)
_IN_REPOSITORY_TABLE = frozenset({Scope.REPOSITORY, Scope.PER_REPOSITORY})
_IN_REPOSITORY_FILE = frozenset({Scope.REPOSITORY})


class Found(NamedTuple):
    """A value and who gave it: a file's path (and table), a variable's name or `option`."""

    value: Any
    source: str


Layer = Mapping[str, Found]


@dataclass(frozen=True)
class Layers:
    """What was found, but for the repository's own file, which is read when it is known which repository."""

    home: Path = Path("/")
    user_file: Path | None = None
    above: tuple[Layer, ...] = ()
    repositories: tuple[tuple[str, Layer], ...] = ()
    user: Layer = field(default_factory=dict)


@dataclass(frozen=True)
class Settings(Sections):
    """Every setting as an attribute of its section (`settings.dispatch.max_running`), and where each came from."""

    sources: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(SETTINGS, DEFAULT))
    agent_tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The user's `[agents.NAME]`, as they stand there."""

    layers: Layers = field(default=Layers(), repr=False, compare=False)

    def value(self, key: str) -> object:
        """The value of a key of `SETTINGS`, for whoever shows them all."""
        section, _, name = key.partition(".")
        found: object = getattr(getattr(self, section), name)
        return found

    def for_repository(self, path: Path) -> "Settings":
        """The settings in that repository, whichever repository these were for; reads its `.dispatchctl.toml`."""
        layers = self.layers
        own = _repository_file(path, layers)
        return _resolve(layers, [*layers.above, *_tables_about(path, layers), own, layers.user], self.agent_tables)


def config_path(env: Environment, option: str | None = None) -> Path:
    """The user's file: `--config`, else DISPATCHCTL_CONFIG, else `dispatchctl/config.toml` under XDG_CONFIG_HOME."""
    named = option or env.config
    return Path(os.path.abspath(env.expand(named))) if named else env.config_home / "dispatchctl" / "config.toml"


def load(
    env: Environment,
    *,
    config_option: str | None = None,
    repo: Path | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings, for `repo` if one is given.

    `overrides` are options by key, as TOML would write them; `None` is an option that was not given. UsageError for
    whatever cannot be read, is unknown, may not be set where it stands or has a value that is not allowed. A file need
    not exist unless an option or variable names it.
    """
    path = config_path(env, config_option)
    file = toml.read(path)
    if file is None and (config_option or env.config):
        by = "--config" if config_option else "DISPATCHCTL_CONFIG"
        raise UsageError(f"there is no {path}, which {by} names", "dispatchctl init")
    options = {key: value for key, value in (overrides or {}).items() if value is not None}
    above = (_option_layer(options, env.home), _variable_layer(env))
    layers = Layers(env.home, path, above)
    if file is not None:
        user = _layer(file, (), _IN_USER_FILE, layers)
        layers = replace(layers, repositories=tuple(_repository_tables(file, layers)), user=user)
    agents = _tables(file, "agents") if file is not None else {}
    settings = _resolve(layers, [*layers.above, layers.user], agents)
    return settings if repo is None else settings.for_repository(repo)


def _resolve(layers: Layers, ranked: Iterable[Layer], agents: Mapping[str, Mapping[str, Any]]) -> Settings:
    found: dict[str, Found] = {}
    for layer in ranked:
        found = {**layer, **found}
    sections: dict[str, Any] = {name: {} for name in SECTIONS}
    for key, (value, _) in found.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return Settings(
        **{name: SECTIONS[name](**values) for name, values in sections.items() if values},
        sources={key: found[key].source if key in found else DEFAULT for key in SETTINGS},
        agent_tables=agents,
        layers=layers,
    )


def _option_layer(options: Mapping[str, object], home: Path) -> Layer:
    try:
        return {key: Found(_value(SETTINGS[key], raw, home), OPTION) for key, raw in options.items()}
    except ValueError as error:
        raise UsageError(str(error)) from None


def _variable_layer(env: Environment) -> Layer:
    layer = {}
    for variable, text in env.inherited.items():
        if not variable.startswith(_PREFIX) or "__" not in variable:
            continue
        setting = SETTINGS.get(variable.removeprefix(_PREFIX).lower().replace("__", ".", 1))
        if setting is None or setting.variable != variable:
            suggestion = _suggestion(variable, [known.variable for known in SETTINGS.values()])
            raise UsageError(f"there is no setting for the variable {toml.dotted([variable])}", suggestion)
        try:
            layer[setting.key] = Found(_value(setting, text, env.home, from_text=True), variable)
        except ValueError as error:
            raise UsageError(f"{variable}: {error}") from None
    return layer


def _repository_file(repo: Path, layers: Layers) -> Layer:
    file = toml.read(repo / REPOSITORY_FILE, foreign=True)
    return {} if file is None else _layer(file, (), _IN_REPOSITORY_FILE, layers)


def _repository_tables(file: toml.TomlFile, layers: Layers) -> Iterator[tuple[str, Layer]]:
    for name in _tables(file, "repositories"):
        keys = ("repositories", name)
        path = str(layers.home / name[2:]) if name.startswith("~/") else name
        if not os.path.isabs(path) or "\0" in path:
            raise UsageError(f'{file.place(keys)}: {toml.dotted(keys)} must name an absolute path or begin with "~/"')
        yield path, _layer(file, keys, _IN_REPOSITORY_TABLE, layers)


def _tables_about(repo: Path, layers: Layers) -> list[Layer]:
    """The user's table for `repo`, however its path is spelled; two for one repository could not be ranked."""
    if not layers.repositories:
        return []
    real = os.path.realpath(repo)
    about = [layer for path, layer in layers.repositories if os.path.realpath(path) == real]
    if len(about) > 1:
        raise UsageError(f"{layers.user_file} has {len(about)} tables for the repository {real}", "keep one of them")
    return about


def _tables(file: toml.TomlFile, name: str) -> Mapping[str, Mapping[str, Any]]:
    """The tables in the table `name`: `[agents.NAME]` or `[repositories."PATH"]`."""
    tables = file.table.get(name, {})
    wrong: list[tuple[str, ...]] = [(name,)]
    if isinstance(tables, dict):
        wrong = [(name, key) for key, table in tables.items() if not isinstance(table, dict)]
    for keys in wrong:
        example = '[repositories."/PATH"]' if name == "repositories" else "[agents.NAME]"
        raise UsageError(f"{file.place(keys)}: {toml.dotted(keys)} must be a table", f"write {example}")
    return dict(tables)


def _layer(file: toml.TomlFile, within: tuple[str, ...], scopes: frozenset[Scope], layers: Layers) -> Layer:
    """The settings in the table `within` of `file` (all of it if empty), which may set only those of `scopes`."""
    source = f'{file.path} [{within[0]}."{within[1]}"]' if within else str(file.path)  # in full, however long the path
    layer = {}
    for keys, raw in _entries(file, within):
        setting = SETTINGS.get(".".join(keys)) if len(keys) == 2 else None
        if setting is None or setting.scope not in scopes:
            if scopes is _IN_USER_FILE and keys[0] in _OWN_TABLES:
                continue
            raise _misplaced(file, within, keys, scopes, layers)
        try:
            layer[setting.key] = Found(_value(setting, raw, layers.home), source)
        except ValueError as error:
            raise UsageError(f"{file.place((*within, *keys))}: {error}") from None
    return layer


def _entries(file: toml.TomlFile, within: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """(section, key) with its value; what is no table, or an empty one of an unknown name, stands under its own key."""
    table = file.table
    for key in within:
        table = table[key]
    for section, body in table.items():
        if isinstance(body, dict) and (body or section in SECTIONS):
            yield from (((section, key), value) for key, value in body.items())
        else:
            yield (section,), body


def _misplaced(
    file: toml.TomlFile, within: tuple[str, ...], keys: tuple[str, ...], scopes: frozenset[Scope], layers: Layers
) -> UsageError:
    """What to say of a key that is unknown, or known and not to be set there."""
    place, asked = file.place((*within, *keys)), toml.dotted(keys)
    setting = SETTINGS.get(".".join(keys)) if len(keys) == 2 else None
    if setting is None and keys[0] not in _OWN_TABLES:
        return UsageError(
            f"{place}: there is no setting {asked}", _suggestion(asked, [*SETTINGS, *map("[{}]".format, SECTIONS)])
        )
    allowed = ", ".join(key for key, known in SETTINGS.items() if known.scope in scopes)
    who = "a table about one repository" if within else "a repository's own file"
    where = str(layers.user_file or "your own file")
    if setting is not None and setting.scope is Scope.PER_REPOSITORY:
        where += f', under [repositories."{file.path.parent}"]'
    return UsageError(f"{place}: {who} may not set {asked}, only {allowed}", f"set it in {where}")


def _value(setting: Setting, raw: object, home: Path, *, from_text: bool = False) -> object:
    """What `raw` means for this setting; ValueError with a sentence if it is not allowed."""
    try:
        value = setting.kind.from_text(raw) if from_text and isinstance(raw, str) else raw
        if setting.kind.expands and isinstance(value, str) and value.startswith("~/"):
            value = str(home / value[2:])
        result: object = setting.kind.read(value)
    except ValueError:
        raise ValueError(f"{setting.key} must be {setting.kind.allowed}, not {_shown(raw)}") from None
    return result


def _shown(raw: object) -> str:
    if isinstance(raw, str):
        return repr(raw if len(raw) <= 60 else raw[:60] + "…")
    if isinstance(raw, bool | int | float) and abs(raw) < 1e18:
        return str(raw).lower()
    names = {list: "a list", dict: "a table", int: "such a large number"}
    return names.get(type(raw), f"a {type(raw).__name__}")


def _suggestion(asked: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only in error messages

    close = get_close_matches(asked[:80], known, 1)
    return f"did you mean {close[0]}?" if close else "dispatchctl config"
