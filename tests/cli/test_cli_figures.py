"""stats, metrics, and what prune does to the history: figures that agree with what is listed."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from cli.desk import EVENT_KEYS, MOMENT, Desk
from prometheus_client.parser import text_string_to_metric_families
from world import eventually

from dispatchctl.task import Status

SHARE_KEYS = {
    *("name", "tasks", "open_runs", "limit", "done", "done_per_hour", "done_per_day", "runs", "waited", "ran"),
    *("failures", "retries", "recoveries", "oldest_ready"),
}


def test_stats_agree_with_the_list(shared: Desk, crowd: dict[str, int]) -> None:
    stats = shared.json("stats")["stats"]
    assert set(stats) == {"since", "until", "all", "agents", "repositories"}
    assert MOMENT.fullmatch(stats["since"])
    everything = stats["all"]
    assert {frozenset(each) for each in (everything, *stats["agents"], *stats["repositories"])} == {
        frozenset(SHARE_KEYS)
    }
    listed = Counter(task["status"] for task in shared.json("list")["tasks"])
    assert {status: number for status, number in everything["tasks"].items() if number} == listed
    assert set(everything["tasks"]) == set(Status)
    assert everything["done"] == 2
    assert everything["failures"] == {"exit code 7": 1}
    assert everything["open_runs"] == 2
    assert everything["runs"] == everything["ran"]["count"] == everything["waited"]["count"] == 4
    assert 0 <= everything["ran"]["median_s"] <= everything["ran"]["p95_s"] <= everything["ran"]["longest_s"]
    assert everything["oldest_ready"]["task"] == crowd["late"]
    assert everything["limit"] == 8
    assert [each["name"] for each in stats["agents"]] == ["shell"]
    assert [each["name"] for each in stats["repositories"]] == [str(shared.repo)]
    assert {**stats["repositories"][0], "name": None, "limit": 8} == everything


def test_stats_of_a_window_a_repository_and_an_agent(shared: Desk, crowd: dict[str, int]) -> None:
    other = shared.world.repository("other")
    task = int(shared.ok("add", "Elsewhere", "-p", "x", "-q", cwd=other))
    one = shared.json("stats", "--repo", str(other), "--since", "0")["stats"]
    assert one["all"]["tasks"]["ready"] == sum(one["all"]["tasks"].values()) == 1
    assert one["all"]["oldest_ready"]["task"] == task
    assert [each["name"] for each in one["repositories"]] == [str(other)]
    assert shared.json("stats", "--agent", "claude")["stats"]["agents"] == []
    now = shared.json("stats", "--since", "now")["stats"]["all"]
    assert (now["runs"], now["done"], now["failures"], now["ran"]["median_s"]) == (0, 0, {}, None)
    assert now["tasks"]["done"] == 2
    shared.ok("rm", "--force", str(task))


def test_stats_are_read_by_people(shared: Desk, crowd: dict[str, int]) -> None:
    lines = shared.ok("stats").splitlines()
    assert any(line.startswith("failures    1 × exit code 7; 4 runs ended") for line in lines)
    assert any(line.startswith(f"oldest      task {crowd['late']} has been ready for ") for line in lines)
    assert any(line.startswith("open runs   2 of at most 8") for line in lines)
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert [row[4] for row in rows] == ["", ""], "no rate of a day before there was one"
    assert shared.json("stats")["stats"]["all"]["done_per_day"] is None
    assert [(row[0], row[-1]) for row in rows] == [("agent", "shell"), ("repository", str(shared.repo))]
    shared.refused("stats", "--since", "yesterday", says="'yesterday' is not a time")


@pytest.mark.parametrize("since", ["1h", "+1h", "0"])
def test_a_time_ago_may_have_a_sign(shared: Desk, crowd: dict[str, int], since: str) -> None:
    assert len(shared.json("history", "--since", since, "--limit", "0")["events"]) > 20
    assert shared.json("stats", "--since", since)["stats"]["all"]["runs"] == 4


def test_history_says_why(shared: Desk, crowd: dict[str, int]) -> None:
    task = shared.ended("Why", "exit 3")
    shared.ok("retry", str(task), "-m", "with more care")
    shared.ok("cancel", str(task))
    events = shared.json("history", str(task))["events"]
    assert {frozenset(event) for event in events} == {frozenset(EVENT_KEYS)}
    why = {event["kind"]: event["reason"] for event in events}
    assert why["ended"] == "exited with 3"
    assert why["retried"] == "with more care"
    [asked] = [event for event in shared.json("history", str(crowd["blocked"]))["events"] if event["to"] == "blocked"]
    assert asked["reason"] == "which one?"


# -- metrics ---------------------------------------------------------------------------------------------------------------


def test_metrics_agree_with_stats(shared: Desk, crowd: dict[str, int]) -> None:
    text = shared.ok("metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    tasks = shared.json("stats", "--since", "0")["stats"]["all"]["tasks"]
    assert {status: found["dispatchctl_tasks", status] for status in tasks} == tasks
    assert found["dispatchctl_runs_open", "shell", str(shared.repo)] == 2
    assert found["dispatchctl_failures_total", "shell", "exit code 7"] == 1
    assert found["dispatchctl_transitions_total", "in_progress", "done"] == 2
    assert found["dispatchctl_transitions_total", "ready", "in_progress"] >= 6
    assert ("dispatchctl_last_reconcile_timestamp_seconds",) in found
    assert not any(f'"{crowd["failed"]}"' in line for line in text.splitlines() if "le=" not in line)


def test_metrics_go_into_a_file_whole(desk: Desk) -> None:
    desk.add("One")
    path = desk.world.root / "metrics.prom"
    os.umask(0o077)
    assert desk.ok("metrics", "--textfile", str(path)) == ""
    os.umask(0o022)
    assert path.stat().st_mode & 0o777 == 0o644
    assert 'dispatchctl_tasks{status="ready"} 1.0\n' in path.read_text()
    assert path.read_text().endswith("\n")
    before = set(desk.world.root.iterdir())
    desk.ok("add", "Two", "-p", "x")
    desk.ok("metrics", "--textfile", str(path))
    assert 'dispatchctl_tasks{status="ready"} 2.0\n' in path.read_text()
    assert set(desk.world.root.iterdir()) == before


def test_metrics_that_cannot_be_written_leave_the_old_file(desk: Desk, tmp_path: Path) -> None:
    desk.add("One")
    desk.refused("metrics", "--textfile", f"{tmp_path}/nowhere/x.prom", code=1, says="cannot be written")
    directory = tmp_path / "x.prom"
    directory.mkdir()
    desk.refused("metrics", "--textfile", str(directory), code=1, says="cannot be written")
    assert list(tmp_path.iterdir()) == [directory]
    old = tmp_path / "old.prom"
    old.write_text("old")
    database = desk.runtime.database
    database.rename(f"{database}.gone")
    said = desk.run("metrics", "--textfile", str(old))
    assert (said.code, said.out) == (1, "")
    assert old.read_text() == "old"
    Path(f"{database}.gone").rename(database)


# -- retention -------------------------------------------------------------------------------------------------------------


def test_prune_drops_the_history_of_finished_tasks_only_if_asked(desk: Desk) -> None:
    first, second, kept = desk.ended("First"), desk.ended("Second", "exit 1"), desk.add("Kept")
    desk.ok("prune", "--older-than", "0")
    everything = desk.json("history", "--limit", "0")["events"]
    with desk.unchanged():
        asked = desk.json("prune", "--events-older-than", "0", "--dry-run")["actions"]
        assert desk.ok("prune", "--events-older-than", "1d") == ""
    assert [(each["action"], each["task"], each["run"], each["ok"]) for each in asked] == [
        ("forget", first, None, True),
        ("forget", second, None, True),
    ]
    many = sum(event["task"] == first for event in everything)
    said = desk.ok("prune", "--keep-tasks", "1")
    assert said == f"the history of task {first} is dropped\n"
    left = desk.json("history", "--limit", "0")["events"]
    assert [event for event in left if event["kind"] != "pruned"] == [
        event for event in everything if event["task"] != first
    ]
    [event] = desk.json("history", str(first))["events"]
    assert (event["kind"], event["actor"], event["reason"]) == ("pruned", "user", f"{many} earlier events were dropped")
    desk.world.extra["DISPATCHCTL_HISTORY__KEEP"] = "1s"
    [action] = eventually(lambda: desk.json("prune")["actions"], what="a second passes")
    assert action["task"] == second
    assert desk.json("history", str(kept))["events"][0]["kind"] == "added"
    assert "all is well" in desk.ok("doctor")


def test_stats_say_that_history_was_dropped(desk: Desk) -> None:
    for title in ("First", "Second"):
        desk.ended(title)
    assert "dropped" not in desk.ok("stats")
    desk.ok("prune", "--keep-tasks", "0")
    assert "done        0: 0 an hour; of 2 more the history was dropped" in desk.ok("stats")
    desk.ended("Third")
    assert "; of 2 more the history was dropped" in desk.ok("stats", "--since", "0")
    assert "dropped" not in desk.ok("stats", "--since", "now")


def test_a_removed_task_is_forgotten_whole(desk: Desk) -> None:
    task = desk.add("Gone")
    desk.ok("rm", str(task))
    [action] = desk.json("prune", "--events-older-than", "0")["actions"]
    assert (action["action"], action["task"]) == ("forget", task)
    assert action["reason"].startswith("3 events, the last of ")
    assert json.loads(desk.run("history", str(task), "--json").out)["error"]["exit_code"] == 3
