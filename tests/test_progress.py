"""How far a job is: what it reports, what others read, and that neither ends the job."""

import json
import time

import pytest

from fewshot import progress
from fewshot.progress import Progress, read_progress, report, report_file_lent, reported_in


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WRITE_S", 0.01)
    return tmp_path / "job" / "progress.json"


def read_until(file, accepted, seconds=30.0):
    """Return the progress in a file as soon as it is accepted."""
    end = time.monotonic() + seconds
    while not ((found := read_progress(file)) and accepted(found)):
        assert time.monotonic() < end
    return found


def test_others_read_what_a_job_reports(file):
    with reported_in(file):
        report("step", 3, 12, loss=0.5)
        report("step", 4, 12, validation=0.25)
        found = read_until(file, lambda read: read.done == 4)

    assert (found.what, found.done, found.total, found.loss, found.validation) == ("step", 4, 12, 0.5, 0.25)


def test_a_job_that_reports_nothing_is_seen_at_work(file):
    with reported_in(file):
        first = read_until(file, lambda read: read.written)
        later = read_until(file, lambda read: read.written > first.written)

    assert (later.what, later.began) == ("", first.began)


def test_nothing_is_left_of_a_job_that_ended_or_failed(file):
    def failing_job():
        with reported_in(file):
            read_until(file, lambda read: True)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        failing_job()

    assert list(file.parent.iterdir()) == []
    with report_file_lent() as reported:
        assert reported is None


def test_reports_of_a_process_without_a_file_go_nowhere():
    report("step", 1, 2)

    with report_file_lent() as reported:
        assert reported is None


def test_nothing_else_writes_to_a_file_that_is_lent(file):
    with reported_in(file):
        read_until(file, lambda read: read.written)
        with report_file_lent() as lent:
            time.sleep(0.1)  # a report that had begun
            lent.write_text(json.dumps({"what": "step", "done": 7, "written": time.time()}))
            time.sleep(0.2)
            assert read_progress(lent).done == 7
        report("step", 8, 9)
        read_until(file, lambda read: read.done == 8)


def test_a_file_that_cannot_be_written_does_not_end_the_job(tmp_path):
    (tmp_path / "job").touch()

    with reported_in(tmp_path / "job" / "progress.json"):
        report("step", 1, 2)


def test_time_left_is_at_the_mean_speed_since_the_first_report():
    read = Progress("step", done=30, total=120, since=100.0, first=10, written=110.0)

    assert read.seconds_left == pytest.approx(45.0)  # 90 steps at 2 per second


def test_what_is_counted_next_has_its_own_speed(file):
    with reported_in(file):
        report("image", 50, 100)
        report("episode", 5, 1000)
        found = read_until(file, lambda read: read.what == "episode")

    assert (found.first, found.seconds_left) == (5, None)


@pytest.mark.parametrize("content", ['{"what"', "[]", '{"done": "x", "written": "now"}', ""])
def test_a_file_that_is_not_readable_is_no_progress(content, tmp_path):
    (tmp_path / "progress.json").write_text(content)

    assert read_progress(tmp_path / "progress.json") is None


def test_a_killed_job_is_not_at_work(tmp_path):
    file = tmp_path / "progress.json"
    file.write_text(json.dumps({"what": "step", "written": time.time() - progress.SILENT_S - 1}))

    assert read_progress(file) is None
