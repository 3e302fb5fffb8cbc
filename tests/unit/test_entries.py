"""The [[schedule]] tables of ingestq.toml become scheduled entries, or a message."""

from dataclasses import replace
from pathlib import Path

import pytest

from ingestq.app.schedule_actions import check_sources
from ingestq.app.schedule_entries import entry_named, scheduled_entries
from ingestq.app.settings import load_settings
from ingestq.core.documents import Lane
from ingestq.core.errors import UsageError
from producers.files.patterns import Patterns
from producers.schedule.entry import Action, ScheduledEntry, Timetable
from producers.schedule.generators import Generator
from producers.schedule.sources import FileSource, LineSource

TABLES = """
[[schedule]]
name = "nightly"
cron = "0 3 * * *"
timezone = "Europe/Berlin"
path = "notes"
source = "notes"
tenant = "island"
include = ["*.md"]
exclude = ["draft.*"]
metadata = {shelf = 7}
lane = "interactive"

[[schedule]]
name = "some"
cron = "0 4 * * *"
glob = "/srv/*/in/**/*.md"

[[schedule]]
name = "lines"
cron = "0 5 * * *"
jsonl = "all.jsonl"
source = "erp/"
delete_missing = true

[[schedule]]
name = "own"
cron = "0 6 * * *"
generator = "erp.export:documents"

[[schedule]]
name = "weekly"
cron = "0 0 * * sun"
action = "verify"
path = "notes"

[[schedule]]
name = "rebuild"
cron = "0 1 1 * *"
action = "reindex"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INGESTQ_CONFIG", "ingestq.toml")  # a found one may not name a generator
    return tmp_path


def entries(toml: str) -> list[ScheduledEntry]:
    Path("ingestq.toml").write_text(toml, encoding="utf-8")
    return scheduled_entries(load_settings())


def test_each_table_becomes_an_entry(here: Path) -> None:
    expected = [
        ScheduledEntry(
            "nightly",
            Timetable("0 3 * * *", "Europe/Berlin"),
            Action.RESCAN,
            FileSource(
                here / "notes", "notes", "island", Patterns(("*.md",), ("draft.*",)), {"shelf": 7}
            ),
            Lane.INTERACTIVE,
        ),
        ScheduledEntry(
            "some",
            Timetable("0 4 * * *"),
            source=FileSource(
                Path("/srv"),
                patterns=Patterns(("/*/in/**/*.md",)),
                glob="/srv/*/in/**/*.md",
                complete=False,
            ),
        ),
        ScheduledEntry(
            "lines",
            Timetable("0 5 * * *"),
            source=LineSource(here / "all.jsonl", "erp", complete=True),
        ),
        ScheduledEntry(
            "own", Timetable("0 6 * * *"), source=LineSource(Generator("erp.export:documents"))
        ),
        ScheduledEntry(
            "weekly", Timetable("0 0 * * sun"), Action.VERIFY, FileSource(here / "notes")
        ),
        ScheduledEntry("rebuild", Timetable("0 1 1 * *"), Action.REINDEX),
    ]
    assert entries(TABLES) == [replace(entry, collection="documents") for entry in expected]


def test_an_entry_can_have_its_own_collection() -> None:
    table = '[[schedule]]\nname = "e"\ncron = "0 3 * * *"\npath = "x"\ncollection = "other"\n'
    assert [entry.collection for entry in entries(table)] == ["other"]
    assert load_settings().collections == ("documents", "other"), "a worker serves both"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('cron = "61 * * * *"\npath = "x"', "'e': cron is '61 * * * *': bad minute; write"),
        ('cron = "0 0 30 2 *"\npath = "x"', "'e': cron is '0 0 30 2 *': bad day-of-month"),
        ('timezone = "Mars"\npath = "x"', "'e': timezone is 'Mars': there is no such time zone"),
        ("", "'e': it has no source; set exactly one of path, url, glob, jsonl, generator"),
        ('path = "x"\nglob = "*"', "'e': it has path and glob; set exactly one of"),
        ('path = "x"\ndelete_missing = true', "'e': delete_missing is not for a path"),
        ('jsonl = "x"\ndelete_missing = true', "'e': delete_missing needs a source"),
        ('url = "s3://a"\ndelete_missing = true', "'e': delete_missing is not for a url"),
        ('url = "s3://u:hunter22@b"', "'e': url: s3://***@…: a password must not be in the"),
        ('url = "bucket"', "'e': url: bucket: write scheme://bucket/prefix"),
        ('jsonl = "x"\nsource = "."', "'e': source is '.'"),
        ('jsonl = "x"\ninclude = ["*"]', "'e': include and exclude need path, url or glob"),
        ('glob = "*"\ninclude = ["*"]', "'e': include cannot be combined with glob"),
        ('glob = "/srv/x"', "'e': glob is '/srv/x', which has no wildcard; use path"),
        (
            'path = "~nobody-of-this-name/x"',
            "'e': ~nobody-of-this-name/x: Could not determine home",
        ),
        ('path = "x"\nexclude = ["!"]', "'e': include or exclude: Invalid"),
        ('action = "reindex"\npath = "x"', "'e': action 'reindex' does not use path; remove it"),
        ('action = "verify"\njsonl = "x"', "'e': action 'verify' does not use jsonl; remove it"),
        ('action = "verify"\nsource = "x"', "'e': source names the folder at path"),
        ('action = "dance"', "schedule.0.action in ingestq.toml is 'dance'"),
        (
            'path = "x"\nquiet_hours = "08:00-18:00"',
            "ingestq.toml: there is no setting 'schedule.0.quiet_hours'",
        ),
        ('path = "x"\nlane = "fast"', "schedule.0.lane in ingestq.toml is 'fast'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_name_and_the_reason(keys: str, said: str) -> None:
    cron = "" if "cron" in keys else 'cron = "0 3 * * *"\n'
    with pytest.raises(UsageError) as raised:
        entries(f'[[schedule]]\nname = "e"\n{cron}{keys}')
    assert said in str(raised.value)


def test_two_sitemaps_of_a_site_need_a_source_each() -> None:
    table = '[[schedule]]\nname = "{0}"\ncron = "0 3 * * *"\nurl = "https://x.example/{0}.xml"\n'
    one, other = table.format("a"), table.format("b")
    with pytest.raises(UsageError, match="'a' and 'b': each would delete"):
        entries(one + other)
    entries(one + other + 'source = "other"\n')


def test_entries_with_the_same_name_or_the_same_documents_are_refused() -> None:
    one = '[[schedule]]\nname = "a"\ncron = "0 3 * * *"\npath = "x"\n'
    with pytest.raises(UsageError, match="'a': 2 tables have this name"):
        entries(one + one)
    lists = [
        f'[[schedule]]\nname = "{name}"\ncron = "0 3 * * *"\njsonl = "{name}"\n'
        f'source = "{source}"\ndelete_missing = true\n'
        for name, source in [("a", "erp"), ("b", "erp/sub"), ("c", "crm")]
    ]
    with pytest.raises(UsageError, match="'a' and 'b': with delete_missing, each would delete"):
        entries("".join(lists))
    assert len(entries(lists[0] + lists[2])) == 2
    assert len(entries(lists[0] + lists[1] + 'collection = "other"\n')) == 2


def test_an_unknown_entry_is_refused_with_the_known_names() -> None:
    found = entries(TABLES)
    assert entry_named(found, "weekly").action is Action.VERIFY
    with pytest.raises(UsageError, match="table 'monthly'; known entries: nightly, some, lines"):
        entry_named(found, "monthly")


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        ("erp", "write it as package.module:function"),
        ("no_such_module:f", "'e': generator 'no_such_module:f' cannot be imported"),
        ("own_source_a:nothing", "cannot be imported (AttributeError"),
        ("own_source_a:plain", "is not an `async def` function that yields"),
        ("own_source_b:f", "cannot be imported (SyntaxError"),
    ],
)
def test_a_wrong_generator_is_refused_at_the_start(
    here: Path, monkeypatch: pytest.MonkeyPatch, generator: str, said: str
) -> None:
    monkeypatch.syspath_prepend(here)
    (here / "own_source_a.py").write_text("async def plain():\n    return []\n")
    (here / "own_source_b.py").write_text("async def f(:\n")
    table = f'[[schedule]]\nname = "e"\ncron = "0 3 * * *"\ngenerator = "{generator}"\n'
    with pytest.raises(UsageError) as raised:
        check_sources(entries(table))
    assert said in str(raised.value)
