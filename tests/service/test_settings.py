from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from dagrec_service.settings import SECRETS, Settings, make_settings, unknown_variables

from dagrec import cli
from dagrec.errors import ConfigError


def test_default_host_is_loopback(tmp_path: Path) -> None:
    settings = make_settings(store=tmp_path)
    assert (settings.host, settings.port, settings.max_body) == ("127.0.0.1", 8000, 1_000_000)


def test_environment_sets_missing_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGREC_STORE", str(tmp_path))
    monkeypatch.setenv("DAGREC_PORT", "9000")
    monkeypatch.setenv("DAGREC_HOST", "0.0.0.0")
    settings = make_settings(host="::1", port=None)
    assert (settings.store, settings.port, settings.host) == (tmp_path, 9000, "::1")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("PORT", "70000", "less than or equal to 65535"),
        ("MAX_BODY", "0", "greater than or equal to 1"),
        ("HOST", "", "at least 1 character"),
        ("FEEDBACK", "", "must name a folder; unset the variable"),
        ("WATCH", "inf", "finite number, found 'inf'"),
        ("GRACE", "0.5", "valid integer"),
        ("ROOT_PATH", "recommend", "must be a path that starts with /, like /recommend, found"),
        ("ROOT_PATH", "https://a/b", "must be a path that starts with /"),
        ("CORS", "https://a, https://b/", "without a path, not 'https://b/'"),
        ("CORS", "editor.example", "like https://editor.example"),
    ],
)
def test_invalid_variable_is_named(
    name: str, value: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DAGREC_{name}", value)
    with pytest.raises(ConfigError, match=f"settings: DAGREC_{name}: .*{rule}"):
        make_settings(store=tmp_path)


def test_store_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGREC_STORE", raising=False)
    with pytest.raises(ConfigError, match="DAGREC_STORE: Field required"):
        make_settings()


def test_invalid_secret_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGREC_API_KEY", "short")
    with pytest.raises(ConfigError, match=r"DAGREC_API_KEY: .*at least 8") as caught:
        make_settings(store=tmp_path)
    assert "short" not in str(caught.value)
    monkeypatch.setenv("DAGREC_API_KEY", "long-enough")
    assert "long-enough" not in repr(make_settings(store=tmp_path))


@pytest.mark.parametrize("secret", ["", "short", "has a space", "from-a-file\n", "schlüssel"])
@pytest.mark.parametrize("name", sorted(SECRETS))
def test_secret_that_no_header_can_carry_is_rejected(
    name: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DAGREC_{name.upper()}", secret)
    with pytest.raises(ConfigError, match="must be at least 8 characters of ASCII without spaces"):
        make_settings(store=tmp_path)


def test_root_path_drops_trailing_slash(tmp_path: Path) -> None:
    assert make_settings(store=tmp_path, root_path="/a/recommend/").root_path == "/a/recommend"
    assert make_settings(store=tmp_path, root_path="/").root_path == ""


def test_unknown_variables_are_listed() -> None:
    environment = {
        "DAGREC_API_KEYS": "x",
        "dagrec_wacth": "5",
        "DAGREC_PORT": "1",
        "HOME": "/",
        "dagrec_host": "x",
    }
    assert unknown_variables(environment) == ["DAGREC_API_KEYS", "dagrec_wacth"]


def test_settings_except_secrets_are_flags_naming_their_variable() -> None:
    command = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    flags = {option: p for p in command.params for option in p.opts}
    for name in Settings.model_fields:
        flag = f"--{name.replace('_', '-')}"
        assert (flag in flags) == (name not in SECRETS)
        if flag in flags:
            assert f"DAGREC_{name.upper()}" in flags[flag].help
    assert {"api_key", "admin_token"} == SECRETS


def test_flag_takes_precedence_over_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGREC_CORS", "https://a, https://b")
    assert make_settings(store=tmp_path).cors == ("https://a", "https://b")
    assert make_settings(store=tmp_path, cors="https://c").cors == ("https://c",)
