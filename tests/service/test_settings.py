from __future__ import annotations

from pathlib import Path

import pytest
import typer.main

from dagrec import cli
from dagrec.errors import ConfigError
from service.settings import SECRETS, Settings, make_settings


def test_defaults_bind_this_machine_only(tmp_path: Path) -> None:
    settings = make_settings(store=tmp_path)
    assert (settings.host, settings.port, settings.max_body) == ("127.0.0.1", 8000, 1_000_000)


def test_the_environment_sets_what_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGREC_STORE", str(tmp_path))
    monkeypatch.setenv("DAGREC_PORT", "9000")
    monkeypatch.setenv("DAGREC_HOST", "0.0.0.0")
    settings = make_settings(host="::1", port=None)
    assert (settings.store, settings.port, settings.host) == (tmp_path, 9000, "::1")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [("PORT", "70000", "less than or equal to 65535"), ("MAX_BODY", "0", "greater than or equal to 1")],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DAGREC_{name}", value)
    with pytest.raises(ConfigError, match=f"settings: DAGREC_{name}: .*{rule}"):
        make_settings(store=tmp_path)


def test_a_store_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGREC_STORE", raising=False)
    with pytest.raises(ConfigError, match="DAGREC_STORE: Field required"):
        make_settings()


def test_a_wrong_secret_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGREC_API_KEY", "short")
    with pytest.raises(ConfigError, match=r"DAGREC_API_KEY: .*at least 8") as caught:
        make_settings(store=tmp_path)
    assert "short" not in str(caught.value)
    monkeypatch.setenv("DAGREC_API_KEY", "long-enough")
    assert "long-enough" not in repr(make_settings(store=tmp_path))


def test_every_setting_but_secrets_is_a_flag_that_names_its_variable() -> None:
    command = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    flags = {option: p for p in command.params for option in p.opts}
    for name in Settings.model_fields:
        flag = f"--{name.replace('_', '-')}"
        assert (flag in flags) == (name not in SECRETS)
        if flag in flags:
            assert f"DAGREC_{name.upper()}" in flags[flag].help
    assert {"api_key", "admin_token"} == SECRETS


def test_a_flag_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGREC_CORS", "https://a, https://b")
    assert make_settings(store=tmp_path).cors == ("https://a", "https://b")
    assert make_settings(store=tmp_path, cors="https://c").cors == ("https://c",)
