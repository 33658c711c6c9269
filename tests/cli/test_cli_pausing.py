"""pause and unpause, the limits by repository and agent, and what `ready` says of both."""

import pytest
from cli.desk import MOMENT, Desk

from dispatchctl.task import Status


def refusal(desk: Desk, *words: str, code: int, **more: str) -> tuple[str, str]:
    """The sentence and the hint of a command that is refused, from its JSON."""
    error = desk.json(*words, code=code, **more)["error"]
    return error["message"], error["hint"]


def test_a_paused_queue_starts_nothing_and_its_agents_go_on(desk: Desk) -> None:
    runs, waits = desk.dispatched("Runs", "sleep 600"), desk.add("Waits")
    [pause] = desk.json("pause", "-m", "release day")["paused"]
    assert (set(pause), pause["repo"], pause["reason"]) == ({"repo", "at", "reason"}, None, "release day")
    assert MOMENT.fullmatch(pause["at"])
    assert "sleep 600" in desk.task(runs).prompt
    assert desk.newest(runs).closed_at is None
    why = f"the queue has been paused since {pause['at']} (release day)"
    said = desk.run("dispatch")
    assert (said.code, said.out, said.err) == (0, "", f"{why}\n  hint: dispatchctl unpause\n")
    assert desk.run("dispatch", "--dry-run") == said
    for words in (["dispatch", str(waits)], ["dispatch", str(waits), "--dry-run"]):
        message, hint = refusal(desk, *words, code=4)
        assert (message, hint) == (f"task {waits} was not started: {why}", "dispatchctl unpause")
    said = desk.run("ready")
    assert (said.out, said.err) == ("", f"{why}\n  hint: dispatchctl unpause\n")
    [task] = desk.json("ready", str(waits))["tasks"]
    assert (task["held"], task["why"]) == (f"{why}: dispatchctl unpause", f"held: {why}: dispatchctl unpause")
    assert desk.json("unpause") == {"paused": []}
    desk.ok("dispatch", str(waits))


def test_pausing_twice_and_unpausing_what_goes_on_say_so(desk: Desk) -> None:
    desk.add("T")
    assert desk.ok("unpause") == "the queue is not paused; nothing was changed\n"
    assert desk.ok("pause").startswith("the queue is paused: nothing is started")
    [first] = desk.json("pause", "-m", "again")["paused"]
    assert first["reason"] is None
    assert desk.ok("pause") == f"the queue has been paused since {first['at']}; nothing was changed\n"
    again = desk.run("pause", "-m", "two days")
    assert again.out == f"the queue has been paused since {first['at']}; nothing was changed\n"
    assert again.err.endswith("\n  hint: dispatchctl unpause && dispatchctl pause -m 'two days'\n")
    said = desk.run("unpause", "--repo", ".")
    assert said.code == 0
    assert said.out == f"{desk.repo} is not paused; nothing was changed\n"
    assert said.err == f"the queue has been paused since {first['at']}\n  hint: dispatchctl unpause\n"
    assert desk.ok("unpause") == "the queue is not paused any more\n"


def test_whoever_looks_at_the_queue_learns_of_a_pause(desk: Desk) -> None:
    task, other = desk.add("T"), desk.world.repository("other")
    [pause] = desk.json("pause", "-m", "lunch")["paused"]
    why = f"the queue has been paused since {pause['at']} (lunch)"
    listed = desk.run("list")
    assert (listed.out.split("\t")[0], listed.err) == (str(task), f"{why}\n  hint: dispatchctl unpause\n")
    assert desk.run("list", "-q").err == ""
    assert f"\npaused      {why}: dispatchctl unpause\n" in desk.ok("stats")
    assert desk.json("stats")["paused"] == [pause]
    desk.ok("unpause")
    desk.ok("pause", "--repo", str(other))
    assert f"{other} has been paused since" in desk.run("list").err
    assert desk.run("list", "--repo", ".").err == ""
    assert desk.json("stats", "--repo", ".")["paused"] == []
    for number in range(3):
        desk.ok("pause", "--repo", str(desk.world.repository(f"more-{number}")))
    assert desk.run("ready").err.count("has been paused since") == 3
    assert "1 more repository is paused\n  hint: dispatchctl ready --explain\n" in desk.run("ready").err


def test_one_repository_is_paused_also_when_it_is_gone(desk: Desk) -> None:
    other = desk.world.repository("other one")
    kept = desk.add("Kept", "exit 0", "--repo", str(other), "--priority", "0")
    free = desk.add("Free")
    (other / "deep").mkdir()
    [pause] = desk.json("pause", "--repo", str(other / "deep"))["paused"]
    assert pause["repo"] == str(other)
    foreseen = desk.run("dispatch", "--dry-run")
    said = desk.run("dispatch")
    assert said.out.startswith(f"task {free} started")
    assert foreseen.out.split("\t")[0] == str(free)
    assert said.err == foreseen.err
    assert said.err.endswith(f"\n  hint: dispatchctl unpause --repo '{other}'\n")
    assert desk.task(kept).status is Status.READY
    assert "is still" not in said.err
    after = desk.run("unpause")
    assert f"{other} has been paused since" in after.err, "it is a pause of its own"
    other.rename(desk.world.root / "moved")
    assert desk.json("unpause", "--repo", str(other))["paused"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pause", "--repo", "/nonexistent"), "/nonexistent"),
        (("unpause", "--repo", "/nonexistent"), "/nonexistent"),
        (("pause", "--repo", ""), "--repo names no directory"),
        (("pause", "-m", "x" * 65_537), "the message has 65537 bytes"),
    ],
)
def test_what_cannot_be_paused_is_refused(desk: Desk, words: tuple[str, ...], says: str) -> None:
    desk.add("T")
    desk.refused(*words, says=says)
    assert desk.runtime.store.pauses() == []


def test_a_reason_is_shown_as_text(desk: Desk) -> None:
    desk.add("T")
    desk.ok("pause", "-m", "a\x1b[31mb\nc")
    assert "\x1b" not in desk.run("dispatch").err


def test_the_limits_of_a_repository_and_of_an_agent_come_from_their_settings(desk: Desk) -> None:
    config = desk.world.home / ".config" / "dispatchctl" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[agents.calm]\nargv = ["sh", "-c", "sleep 600"]\nprompt = "stdin"\nmax_running = 1\n')
    (desk.repo / ".dispatchctl.toml").write_text("[dispatch]\nmax_per_repo = 2\n")
    other = desk.world.repository("other")
    here = [desk.add(f"Here {n}", "sleep 600", "--priority", "0") for n in range(3)]
    calm = [desk.add(f"Calm {n}", "x", "--agent", "calm", "--repo", str(other)) for n in range(2)]
    foreseen = desk.json("dispatch", "--dry-run")["dispatched"]
    started = desk.run("dispatch")
    assert [int(line.split()[1]) for line in started.out.splitlines()] == [*here[:2], calm[0]]
    assert [task["id"] for task in foreseen] == [*here[:2], calm[0]]
    full = f"2 runs are open in {desk.repo} and its limit, dispatch.max_per_repo, is 2"
    hint = f"dispatchctl config dispatch.max_per_repo --repo {desk.repo}"
    assert started.err == f"with these, {full}; 2 more are ready\n  hint: {hint}\n"
    assert desk.ok(*hint.split()[1:]).split("\t")[:2] == ["dispatch.max_per_repo", "2"]
    busy = "1 run is open of agent calm and its limit, agents.calm.max_running, is 1"
    for words in (["dispatch"], ["dispatch", "--dry-run"]):
        assert refusal(desk, *words, str(here[2]), code=75) == (f"task {here[2]} was not started: {full}", hint)
        assert refusal(desk, *words, str(calm[1]), code=75)[0] == f"task {calm[1]} was not started: {busy}"
    why = {task["id"]: (task["held"], task["why"]) for task in desk.json("ready", "--explain")["tasks"]}
    assert why[here[2]] == (full, f"held: {full}")
    listed = {task["id"]: task["held"] for task in desk.json("list")["tasks"]}
    assert listed == {**dict.fromkeys([*here[:2], calm[0]]), here[2]: full, calm[1]: busy}
    assert why[calm[1]] == (busy, f"held: {busy}")
    with config.open("a") as file:
        file.write(f'[repositories."{desk.repo}".dispatch]\nmax_per_repo = 3\n')
    desk.ok("dispatch", str(here[2]))


def test_every_place_in_the_line_is_told(desk: Desk) -> None:
    tasks = [desk.add(f"T{n}") for n in range(3)]
    first = desk.add("First", "exit 0", "--priority", "0")
    gone = desk.add("Gone", "exit 0", "--agent", "amp", "--priority", "4")
    why = {task["id"]: task["why"] for task in desk.json("ready", "--explain")["tasks"]}
    places = ["2nd", "3rd", "4th"]
    assert why == {
        first: "ready: next in line: dispatchctl dispatch",
        **{task: f"ready: {place} in line: dispatchctl dispatch" for task, place in zip(tasks, places, strict=True)},
        gone: "ready: 5th in line: dispatchctl dispatch; it would fail: the program of agent amp, 'amp', is not on PATH:"
        " dispatchctl agents",
    }
