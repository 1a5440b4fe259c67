import os
import pwd
import traceback

import pytest

from service.errors import InvalidSetting
from service.settings import Settings, read_settings, replaced_variables, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    for name in os.environ:
        if name.startswith("DENSEPOSE_"):
            monkeypatch.delenv(name)


def test_without_an_environment_the_defaults_are_those_of_the_contract():
    settings = read_settings()
    assert settings.default_model == "R_50_FPN_s1x"
    assert settings.preload == ("R_50_FPN_s1x",)
    assert settings.models is None
    assert (settings.short_side, settings.long_side) == (800, 1333)
    assert (settings.max_batch, settings.max_queue, settings.max_delay_ms) == (8, 64, 0)
    assert (settings.drain_delay_ms, settings.shutdown_timeout_ms) == (5_000, 25_000)
    assert (settings.timeout_ms, settings.upload_timeout_ms) == (30_000, 15_000)
    assert settings.max_body_bytes == 20 * 1024 * 1024
    assert settings.max_pixels == 40_000_000
    assert settings.max_inflight_bytes == 512 * 1024 * 1024
    assert settings.max_answer_bytes == 256 * 2**20
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.device, settings.precision) == ("auto", "fp32")


def test_lists_are_comma_lists(monkeypatch):
    monkeypatch.setenv("DENSEPOSE_MODELS", "demo, R_50_FPN_s1x,")
    monkeypatch.setenv("DENSEPOSE_PRELOAD", "")
    settings = read_settings()
    assert settings.models == ("demo", "R_50_FPN_s1x")
    assert settings.preload == ()


def test_the_default_model_is_preloaded_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("DENSEPOSE_DEFAULT_MODEL", "demo")
    assert read_settings().preload == ("demo",)


@pytest.mark.parametrize("path", [None, "~/models", "~nobody-of-this-name/models"])
def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch, path):
    def know_nobody(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", know_nobody)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if path is not None:
        monkeypatch.setenv("DENSEPOSE_MODEL_STORE", path)
    with pytest.raises(InvalidSetting, match="DENSEPOSE_MODEL_STORE"):
        read_settings()


def test_the_store_may_be_below_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DENSEPOSE_MODEL_STORE", "~/models")
    assert str(read_settings().model_store) == "/home/somebody/models"


@pytest.mark.parametrize(
    ("host", "download"),
    [("127.0.0.1", "any"), ("::1", "any"), ("localhost", "any"), ("0.0.0.0", "preload")],
)
def test_any_request_may_download_only_where_this_machine_alone_can_ask(
    monkeypatch, host, download
):
    monkeypatch.setenv("DENSEPOSE_HOST", host)
    assert read_settings().download == download


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("MAX_PIXELS", "40e6"),
        ("MAX_BODY_BYTES", "0"),
        ("PRECISION", "fp8"),
        ("DEVICE", "tpu"),
        ("LOG_LEVEL", "loud"),
        ("OFFLINE", "perhaps"),
        ("DOWNLOAD", "some"),
        ("LONG_SIDE", "500"),
        ("MAX_INFLIGHT_BYTES", "1000"),
        ("MAX_DELAY_MS", "-1"),
        ("SHUTDOWN_TIMEOUT_MS", "4000"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"DENSEPOSE_{name}", value)
    with pytest.raises(InvalidSetting, match=f"DENSEPOSE_{name}") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", ["", " ", "\t"])
@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"preload"}))
def test_an_empty_setting_is_an_unset_one(monkeypatch, name, empty):
    monkeypatch.setenv(f"DENSEPOSE_{name.upper()}", empty)
    assert read_settings() == Settings()
    monkeypatch.delenv(f"DENSEPOSE_{name.upper()}")
    assert read_settings() == Settings()


def test_an_empty_preload_is_none(monkeypatch):
    for empty in ("", " ", ","):
        monkeypatch.setenv("DENSEPOSE_PRELOAD", empty)
        assert read_settings().preload == ()


@pytest.mark.parametrize(
    "number",
    ["1_000", "+1000", " 1000", "1000 ", "1000\n", "1e3", "1000.0", "0x3e8", "\u0661\u0660", "-"],
)
@pytest.mark.parametrize("name", ["PORT", "MAX_BATCH", "MAX_DELAY_MS", "DEVICE_MEMORY"])
def test_a_number_is_decimal_digits_and_nothing_else(monkeypatch, name, number):
    monkeypatch.setenv(f"DENSEPOSE_{name}", number)
    with pytest.raises(InvalidSetting, match=f"^DENSEPOSE_{name} is not a whole number") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "65536", "must be at most 65535 (it is '65536')"),
        ("MAX_BATCH", "0", "must be at least 1 (it is '0')"),
        ("MAX_BATCH", "9" * 5000, "is not a whole number in decimal digits"),
        ("OFFLINE", "perhaps", "must be true or false (it is 'perhaps')"),
        ("PRECISION", "fp8", "must be 'fp32', 'bf16' or 'fp16' (it is 'fp8')"),
        ("DEVICE", "tpu", "must be auto, cpu, cuda, or a certain one as cuda:1 (it is 'tpu')"),
        ("DEVICE", "cuda:\u0661", "must be auto, cpu, cuda, or a certain one as cuda:1"),
        ("ADMIN_KEY", "sesame", "is not a SHA-256 in hexadecimal"),
        ("MODELS", ",", "names nothing (it is ',')"),
        ("MODEL_STORE", "~nobody-here/x", "is in a home folder that this machine does not know"),
        ("API_KEYS_FILE", "~nobody-here/x", "is in a home folder that this machine does not know"),
        ("API_KEYS", "a=b", "key 1 is not name=<SHA-256 in hexadecimal>"),
        ("ZOO_URL", "mirror.example/zoo", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "ftp://mirror.example", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "https://", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "https://[::1", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "https://a:b/", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "https://a/\nb", "is not an address as https://mirror.example/zoo"),
        ("ZOO_URL", "https://a/?", "must end with its path: a query or a fragment cannot be used"),
    ],
)
def test_what_is_wrong_is_said_in_our_words(monkeypatch, name, value, words):
    monkeypatch.setenv(f"DENSEPOSE_{name}", value)
    with pytest.raises(InvalidSetting) as caught:
        read_settings()
    assert str(caught.value).startswith(f"DENSEPOSE_{name} {words}")


@pytest.mark.parametrize(
    "url",
    [
        "https://mirror.example/zoo?token=hunter2",
        "https://mirror.example/zoo/#hunter2",
        "https://reader:hunter2@/zoo",
        "ftp://reader:hunter2@mirror.example/zoo",
        "https://reader:hunter2@mirror.example:x/zoo",
    ],
)
def test_a_mirror_that_cannot_be_used_is_refused_without_showing_its_secrets(monkeypatch, url):
    monkeypatch.setenv("DENSEPOSE_ZOO_URL", url)
    with pytest.raises(InvalidSetting, match="DENSEPOSE_ZOO_URL") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "https://reader:hunter2@mirror.example/zoo/", "http://[::1]/"]
)
def test_a_mirror_is_any_address_with_a_password_or_without(monkeypatch, url):
    monkeypatch.setenv("DENSEPOSE_ZOO_URL", url)
    assert read_settings().zoo_url == url


def test_a_setting_that_follows_from_a_bad_one_is_not_blamed(monkeypatch):
    monkeypatch.setenv("DENSEPOSE_DEFAULT_MODEL", "demo")
    monkeypatch.setenv("DENSEPOSE_LOG_LEVEL", "loud")
    with pytest.raises(InvalidSetting) as caught:
        read_settings()
    assert str(caught.value).count("DENSEPOSE_") == 1


def test_a_variable_that_is_no_setting_is_named():
    environment = {"DENSEPOSE_MAX_BACTH": "1", "DENSEPOSE_PORT": "1", "HOME": "/"}
    assert unknown_variables(environment) == ["DENSEPOSE_MAX_BACTH"]


def test_what_is_logged_has_every_setting_but_no_password():
    settings = Settings(
        zoo_url="https://reader:hunter2@mirror.example/zoo",
        admin_key="a" * 64,
        api_keys="alice=" + "b" * 64,
    )
    public = settings.public()
    assert set(public) == set(Settings.model_fields) - {"admin_key", "api_keys"}
    assert "a" * 64 not in str(public)
    assert "b" * 64 not in str(public)
    assert "hunter2" not in str(public)
    assert public["zoo_url"] == "https://mirror.example/zoo"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ADMIN_KEY", "open sesame"), ("API_KEYS", "alice=sesame"), ("API_KEYS", "sesame")],
)
def test_a_key_that_is_no_digest_is_refused_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(f"DENSEPOSE_{name}", value)
    with pytest.raises(InvalidSetting, match=f"DENSEPOSE_{name}") as refusal:
        read_settings()
    assert "sesame" not in str(refusal.value)


@pytest.mark.parametrize("name", ["API_KEYS", "API_KEYS_FILE"])
def test_whoever_has_a_key_may_download(monkeypatch, name):
    monkeypatch.setenv("DENSEPOSE_HOST", "0.0.0.0")
    monkeypatch.setenv(f"DENSEPOSE_{name}", "alice=" + "a" * 64)
    assert read_settings().download == "any"


def test_empty_api_keys_are_none(monkeypatch):
    monkeypatch.setenv("DENSEPOSE_API_KEYS", "")
    assert read_settings().api_keys == ()


@pytest.mark.parametrize(
    ("variables", "is_open"),
    [
        ({}, False),
        ({"HOST": "0.0.0.0"}, True),
        ({"HOST": "photos.example"}, True),
        ({"HOST": "0.0.0.0", "API_KEYS": "alice=" + "a" * 64}, False),
        ({"HOST": "0.0.0.0", "API_KEYS_FILE": "/keys"}, False),
        ({"HOST": "0.0.0.0", "ADMIN_KEY": "a" * 64}, True),
    ],
)
def test_beyond_this_machine_only_keys_close_the_door(monkeypatch, variables, is_open):
    for name, value in variables.items():
        monkeypatch.setenv(f"DENSEPOSE_{name}", value)
    assert read_settings().is_open is is_open


def test_the_limit_of_the_version_before_is_taken_as_bytes_and_told(monkeypatch):
    monkeypatch.setenv("DENSEPOSE_MAX_ANSWER_PIXELS", "1000")
    assert read_settings().max_answer_bytes == 1000
    told = {"DENSEPOSE_MAX_ANSWER_PIXELS": "DENSEPOSE_MAX_ANSWER_BYTES"}
    assert replaced_variables({"DENSEPOSE_MAX_ANSWER_PIXELS": "1000"}) == told
    assert unknown_variables({"DENSEPOSE_MAX_ANSWER_PIXELS": "1000"}) == []
    monkeypatch.setenv("DENSEPOSE_MAX_ANSWER_BYTES", "2000")
    assert read_settings().max_answer_bytes == 2000


@pytest.mark.parametrize(
    ("variables", "known_hosts"),
    [
        ({}, ()),
        ({"HOST": "::1", "ADMIN_KEY": "0" * 64}, ()),
        ({"API_KEYS": f"alice={'0' * 64}"}, ("*",)),
        ({"API_KEYS_FILE": "keys"}, ("*",)),
        ({"HOST": "0.0.0.0"}, ("*",)),
        (
            {"HOST": "0.0.0.0", "ALLOWED_HOSTS": "A.example., *.b.example"},
            ("a.example", "*.b.example"),
        ),
        ({"ALLOWED_HOSTS": "[2001:DB8::0:1]"}, ("[2001:db8::1]",)),
        ({"ALLOWED_HOSTS": "*"}, ("*",)),
    ],
)
def test_any_name_leads_to_a_server_that_others_reach_or_that_knows_its_clients(
    monkeypatch, variables, known_hosts
):
    for name, value in variables.items():
        monkeypatch.setenv(f"DENSEPOSE_{name}", value)
    assert read_settings().known_hosts == known_hosts


@pytest.mark.parametrize(
    "value",
    [
        "a.example:80",
        "http://a.example",
        "::1",
        "a b",
        "a.example/x",
        "*a.example",
        "a.*",
        "*.*",
        "*.",
    ],
)
def test_an_allowed_host_is_a_name_alone(monkeypatch, value):
    monkeypatch.setenv("DENSEPOSE_ALLOWED_HOSTS", value)
    with pytest.raises(InvalidSetting, match="DENSEPOSE_ALLOWED_HOSTS"):
        read_settings()


def test_a_connection_may_be_idle_for_longer_than_common_balancers_keep_it():
    assert read_settings().keep_alive_ms == 75_000
