"""Names made from what a user wrote hold nothing that a shell, tmux or git would interpret."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchctl import names

SAFE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Fix the login page", "fix-the-login-page"),
        ("  Größe: 10 µm — naïve café!  ", "grosse-10-m-naive-cafe"),
        ("🚀", ""),
        ("", ""),
        ("#(touch CANARY) $(id); rm -rf /", "touch-canary-id-rm-rf"),
        ("one two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
        ("x" * 50, "x" * 40),
        ("a " + "x" * 50, "a"),
        ("ﬁne ①", "fine-1"),
    ],
)
def test_a_title_becomes_words(title: str, slug: str) -> None:
    assert names.slug(title) == slug


@given(st.text())
def test_whatever_a_title_holds_its_name_is_safe_and_short(title: str) -> None:
    slug = names.slug(title)
    assert slug == "" or SAFE.fullmatch(slug)
    assert len(slug) <= 40
    assert SAFE.fullmatch(names.leaf(7, title, 1))
    assert SAFE.fullmatch(names.leaf(7, title, 2))
    assert SAFE.fullmatch(names.place(f"/{title}"))


@given(st.text(), st.integers(1, 50))
def test_a_branch_is_one_that_git_accepts(title: str, number: int) -> None:
    branch = names.branch("dispatch/{id}-{slug}", 7, title, number)
    assert re.fullmatch(r"dispatch/7(-[a-z0-9]+)*", branch)


@pytest.mark.parametrize(
    ("pattern", "title", "number", "branch"),
    [
        ("dispatch/{id}-{slug}", "Fix it", 1, "dispatch/7-fix-it"),
        ("dispatch/{id}-{slug}", "Fix it", 3, "dispatch/7-fix-it-3"),
        ("dispatch/{id}-{slug}", "🚀", 1, "dispatch/7"),
        ("{slug}.{id}", "Fix it", 1, "fix-it.7"),
        ("{slug}/{id}", "🚀", 1, "7"),
        ("{slug}-{id}", "🚀", 2, "7-2"),
        ("agents/{slug}/{id}", "🚀", 1, "agents/7"),
        ("{id}", "{slug} {id}", 1, "7"),
        ("{id}-{slug}", "{id}", 1, "7-id"),
    ],
)
def test_a_branch_follows_its_pattern(pattern: str, title: str, number: int, branch: str) -> None:
    assert names.branch(pattern, 7, title, number) == branch


def test_two_repositories_of_one_name_have_two_places() -> None:
    assert names.place("/a/web.git") != names.place("/b/web.git")
    assert names.place("/a/web.git").startswith("web-")
    assert names.place("/") == names.place("/")
    assert names.place("/srv/web/") != names.place("/srv/web")


@given(st.text(), st.text(), st.integers(1, 99), st.integers(1, 99))
def test_names_of_different_tasks_differ(one: str, other: str, number: int, another: int) -> None:
    for pattern in ("{id}-{slug}", "{slug}.{id}"):
        assert names.leaf(1, one, number) != names.leaf(11, other, another)
        assert names.branch(pattern, 1, one, 1) != names.branch(pattern, 11, other, 1)
