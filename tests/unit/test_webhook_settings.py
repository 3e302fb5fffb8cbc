"""Webhooks in the settings: tables, variables, and clear errors."""

from pathlib import Path

import pytest

from ingestq.app.settings import Settings, load_settings
from ingestq.core.errors import UsageError
from ingestq.core.webhooks import WebhookEvent
from tests.webhook_receiver import OTHER_SECRET, SECRET


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Loader":
    monkeypatch.chdir(tmp_path)
    return Loader(tmp_path, monkeypatch)


class Loader:
    """Loads settings from a settings file and variables."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, patch

    def __call__(self, toml: str = "", **variables: str) -> Settings:
        (self._folder / "ingestq.toml").write_text(toml, encoding="utf-8")
        for name, value in variables.items():
            self._patch.setenv(f"INGESTQ_{name.upper()}", value)
        return load_settings()


def table(**more: str) -> str:
    lines = {"name": '"crm"', "url": '"https://crm.example/hooks/Xyzzy42"'} | more
    return "[[webhook]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def test_tables_and_variables_are_read(loaded: Loader) -> None:
    toml = table(secret=f'["{SECRET}", "{OTHER_SECRET}"]', events='["document.dead_lettered"]')
    settings = loaded(
        toml, webhook_url="https://ours.example/", webhook_secret=f"{SECRET} {OTHER_SECRET}"
    )
    crm, ours = settings.webhooks
    assert (crm.name, crm.place) == ("crm", "https://crm.example")
    assert crm.secrets == (SECRET, OTHER_SECRET) == ours.secrets
    assert crm.events == (WebhookEvent.DOCUMENT_DEAD_LETTERED,)
    assert (ours.name, ours.events) == ("default", tuple(WebhookEvent))
    for secret in (SECRET, OTHER_SECRET, "https://crm.example/hooks/Xyzzy42"):
        assert secret in settings.secrets
        assert secret not in f"{settings!r} {crm!r} {settings.model_dump_json()}"


def test_a_table_without_a_secret_uses_the_variable(loaded: Loader) -> None:
    [crm] = loaded(table(), webhook_secret=SECRET).webhooks
    assert crm.secrets == (SECRET,)


def test_the_events_of_the_variables_are_separated_by_commas(loaded: Loader) -> None:
    settings = loaded(
        webhook_url="https://ours.example/",
        webhook_secret=SECRET,
        webhook_events="submission.finished",
    )
    assert settings.webhooks[0].events == (WebhookEvent.SUBMISSION_FINISHED,)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (table(), "'crm' has no secret to sign with"),
        (table(secret=f'"{SECRET}"') * 2, "two webhooks are called 'crm'"),
        (table(secret='"Xyzzy42"'), "a secret is 'whsec_' and base64; make one with"),
        (table(secret='"whsec_Xyzzy420"'), "24 to 64 bytes"),
        (table(secret='""'), "it names no secret"),
        (table(url='"ftp://Xyzzy42"'), "write http://… or https://…"),
        (table(url='"https:///Xyzzy42"'), "write https://HOST/PATH"),
        (table(url='"https://host:99999/Xyzzy42"'), "write https://HOST/PATH"),
        (table(events='["document.eaten"]'), "'submission.finished' or 'document.dead_lettered'"),
        (table(events="[]"), "it names no event"),
        (table(name='"a b"'), "webhook.0.name"),
        (table(colour='"Xyzzy42"'), "there is no setting 'webhook.0.colour'"),
        ("[[webhook]]\n", "webhook.0.name in ingestq.toml is missing"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(loaded: Loader, toml: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        _ = loaded(toml).webhooks
    assert said in str(error.value)
    assert "Xyzzy42" not in str(error.value)
