"""Profiles from the tables `agents.NAME` of a settings file, and the errors for what they get wrong."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dispatchctl.agents.built_in import FORMS, with_args
from dispatchctl.agents.profile import (
    LAST_MESSAGE_FILE,
    PLACEHOLDERS,
    SHELL,
    LastMessage,
    Profile,
    PromptBy,
    last_of,
    prompt_of,
)
from dispatchctl.errors import UsageError


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_environment(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(text) and re.fullmatch(r"[^=\0]+", k) for k, text in value.items())


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000


# What each key may be, in words and as a test.
_KEYS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "argv": ("a list of strings", _is_list),
    "args": ("a list of strings", _is_list),
    "prompt": ('"argument", "stdin" or "file"', list(PromptBy).__contains__),
    "interactive": ("true or false", _is_switch),
    "env": ("a table of strings", _is_environment),
    "strip": ("a list of strings", _is_list),
    "keep": ("a list of strings", _is_list),
    "expects_changes": ("true or false", _is_switch),
    "resume": ("a list of strings", _is_list),
    "last_message": ('"", "output" or "file"', list(LastMessage).__contains__),
    "max_running": ("a whole number from 0 (no limit) to 1000", _is_limit),
    "note": ("a string", _is_text),
}


def unknown_agent(name: str, known: Collection[str]) -> UsageError:
    """The error for a name that no profile has; `known` are the names there are."""
    hint = f"{_did_you_mean(name, known)}known agents: {', '.join(sorted(known))}"
    return UsageError(f"there is no agent called {name!r}", hint)


def profile_from_settings(name: str, table: Mapping[str, Any], source: str) -> Profile:
    """The profile that a table `agents.NAME` of the settings file `source` describes.

    A table named like a built-in profile changes that one: `env`, `strip` and `keep` add to what it has, other keys
    replace it; `interactive` picks one of its forms, and `args` go where it takes its options, in `resume` as well.

    A new `argv` takes its prompt by its placeholders, else on standard input, unless there is a `prompt`; it cannot
    resume unless there is a `resume`. `resume = []` says that the agent cannot. Its last message is in the file that it
    names, else nowhere, unless there is a `last_message`.

    Raises `UsageError`, naming the key and what is allowed, for anything that cannot be.
    """
    for key, value in table.items():
        _check(key, value, name, source)
    base = _base(name, table, source)
    own = "argv" in table
    args = table.get("args", ())
    argv = with_args(table.get("argv", base.argv), args)
    resume = table.get("resume", () if own else base.resume)
    resume = with_args(resume, args) if resume else None
    prompt = PromptBy(table["prompt"]) if "prompt" in table else prompt_of(argv) if own else base.prompt
    interactive = bool(table.get("interactive", base.interactive))
    if interactive and prompt is PromptBy.STDIN:
        hint = "put {prompt} or {prompt_file} into its argv, or set interactive = false"
        raise _refused(source, name, "prompt", 'cannot be "stdin" while the agent is interactive', hint)
    last = (
        LastMessage(table["last_message"]) if "last_message" in table else last_of(argv) if own else base.last_message
    )
    if interactive and last is LastMessage.OUTPUT:
        hint = "an interactive agent draws on its screen: leave it out, or set interactive = false"
        raise _refused(source, name, "last_message", 'cannot be "output" while the agent is interactive', hint)
    if last is LastMessage.FILE and LAST_MESSAGE_FILE not in argv:
        hint = 'that is where an agent with last_message = "file" writes'
        raise _refused(source, name, "argv", f"must have an element {LAST_MESSAGE_FILE}", hint)
    for key, elements in (("argv", argv), ("resume", resume)):
        if elements and (wrong := _wrong_prompt(elements, prompt, name)):
            raise _refused(source, name, key, *wrong)
    return replace(
        base,
        argv=argv,
        prompt=prompt,
        interactive=interactive,
        env={**base.env, **table.get("env", {})},
        strip=(*base.strip, *table.get("strip", ())),
        keep=(*base.keep, *table.get("keep", ())),
        expects_changes=table.get("expects_changes", base.expects_changes),
        resume=resume,
        last_message=last,
        max_running=table.get("max_running", base.max_running),
        note=table.get("note", "" if own else base.note),
        source=source,
    )


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    import difflib  # only for someone who mistyped

    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _refused(source: str, name: str, key: str, wrong: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{source}: agents.{name}.{key} {wrong}", hint)


def _check(key: str, value: object, name: str, source: str) -> None:
    """Raise for a key or a value that would be wrong in any profile."""
    if key not in _KEYS:
        hint = f"{_did_you_mean(key, _KEYS)}settings of an agent: {', '.join(_KEYS)}"
        raise _refused(source, name, key, "is not a setting", hint)
    allowed, is_allowed = _KEYS[key]
    if not is_allowed(value):
        given = "" if isinstance(value, dict | list) else f", not {value!r}"  # an environment may hold secrets
        raise _refused(source, name, key, f"must be {allowed}{given}")
    if key in ("argv", "args", "resume") and isinstance(value, list):
        wrong = _wrong_element(value) or (
            _wrong_program(value) if key == "argv" or (key == "resume" and value) else None
        )
        if wrong:
            raise _refused(source, name, key, *wrong)


def _base(name: str, table: Mapping[str, Any], source: str) -> Profile:
    """The form that the table changes: a built-in one, or for another name an empty one."""
    forms = [form for form in FORMS if form.name == name]
    if "argv" in table:
        return forms[0] if forms else Profile(name, (), PromptBy.ARGUMENT, interactive=False)
    if not forms:
        raise _refused(source, name, "argv", "is missing", f'for example: argv = ["{name}", "--", "{{prompt}}"]')
    fitting = [form for form in forms if form.interactive is table.get("interactive", form.interactive)]
    if not fitting:
        only = str(forms[0].interactive).lower()
        raise _refused(
            source, name, "interactive", f"can only be {only} for this agent", "leave it out, or give an argv"
        )
    return fitting[0]


# Each of these says what is wrong and gives a hint, or None if nothing is.
_Wrong = tuple[str, str] | None


def _wrong_element(elements: Iterable[str]) -> _Wrong:
    for element in elements:
        for placeholder in PLACEHOLDERS:
            if placeholder in element and placeholder != element:
                return f"has {placeholder} inside {element!r}", "make the placeholder an element of its own"
        if re.fullmatch(r"\{\w+\}", element) and element not in PLACEHOLDERS:
            hint = f"{_did_you_mean(element, PLACEHOLDERS)}placeholders: {', '.join(PLACEHOLDERS)}"
            return f"has an unknown placeholder {element}", hint
    return None


def _wrong_program(argv: Sequence[str]) -> _Wrong:
    program = argv[0] if argv else ""
    if program and program not in PLACEHOLDERS and ("/" not in program or os.path.isabs(program)):
        return None
    begins = f"begins with {program!r}" if program else "is empty"
    return f"must begin with a program, but {begins}", "give the name of one that is on PATH, or an absolute path"


def _wrong_prompt(argv: Sequence[str], prompt: PromptBy, name: str) -> _Wrong:
    """Whether the argv takes the prompt in that way, and as nothing but a text."""
    needed = {PromptBy.ARGUMENT: "{prompt}", PromptBy.FILE: "{prompt_file}"}.get(prompt)
    if needed and needed not in argv:
        return f"must have an element {needed}", f'that is how an agent with prompt = "{prompt}" gets it'
    if "{prompt}" in argv and prompt is not PromptBy.ARGUMENT:
        return f'cannot have {{prompt}} with prompt = "{prompt}"', 'leave one out, or set prompt = "argument"'
    if name != SHELL and _runs_prompt(argv):
        hint = 'use the agent "shell"; an option that has nothing to do with a shell may have a long form'
        return "would run {prompt} as a program", hint
    return None


def _runs_prompt(argv: Sequence[str]) -> bool:
    """Whether the prompt follows an option such as `-c`, `-lc` or `-e`, maybe with other short options in between."""
    for at in (index for index, element in enumerate(argv) if element == "{prompt}"):
        for option in reversed(argv[1:at]):
            if re.fullmatch(r"-[a-zA-Z]*c|-[eE]|--command|--eval", option):
                return True
            if not re.fullmatch(r"--|-\w", option):
                break
    return False
