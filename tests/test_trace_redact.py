"""Redaction: secrets go, everything else stays as it is, and a line of JSON stays one."""

import hashlib
import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.trace.redact import REDACTED, Redactor, secret_values

DIGITS = "0123456789abcdefABCDEF" * 4
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow" + "Ab1+/" * 20 + "\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    "sk-" + DIGITS[:40],
    "sk-proj-a_b-" + DIGITS[:40],
    "sk-ant-api03-" + DIGITS[:40],
    "sk_live_" + DIGITS[:24],
    "rk_test_" + DIGITS[:24],
    "gsk_" + DIGITS[:40],
    "hf_" + DIGITS[:34],
    "npm_" + DIGITS[:36],
    "xai-" + DIGITS[:40],
    *(prefix + DIGITS[:36] for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    "github_pat_11" + DIGITS[:20] + "_" + DIGITS[:40],
    "glpat-" + DIGITS[:20],
    "AKIA" + "ABCDEFGH12345678",
    "ASIA" + "ABCDEFGH12345678",
    "AIza" + DIGITS[:35],
    "xoxb-123456789012-" + DIGITS[:20],
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    PEM,
    PEM[:60],
]
ORDINARY = [
    "Ask the help desk-team; a risk-averse task-force-of-many-departments decides.",
    "The bearer of responsibilities misunderstands, and bearer misunderstandings are well-understood-things.",
    "See https://example.org:8443/a/b?c=d@e and http://[::1]:8080/x, mail a@b.example, or call 10:30@noon.",
    "Refunds take 14 days; e.g. ratio 3://4, C://dir, a: b@c.",
    "AKIAdoes not look like one, nor does AKIA12, ASIANS or eyJ alone, sk-, ghp_, xoxo-hugs-and-kisses.",
    "prompt_tokens completion_tokens finish_reason github_pat_ hf_something_with_words npm_config_registry",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "sk-learn-contributors-and-friends, sk_live_show",
    "run r-20261123-7f3a9c/route.r1/billing/1/1",
    str(uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF)),
    hashlib.sha256(b"x").hexdigest(),
    hashlib.sha1(b"x").hexdigest(),
]
SURROUNDINGS = ["{}", "key: {}.", "\n{}\n", '"{}"', "\\{}", "\t{},", "\x1b{}", "é{}é", "token={}&x=1"]
redactor = Redactor(["hunter2-hunter2", 'qu"ote\\d\nvälue', "nfoo12345"])


def through_line(text: str) -> str:
    line = json.dumps({"type": "step_failed", "error": [text]}, ensure_ascii=False).encode()
    cleaned = json.loads(redactor.line(line))
    assert cleaned["type"] == "step_failed"
    return cleaned["error"][0]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", SURROUNDINGS)
def test_well_known_keys_are_taken_out_wherever_they_stand(secret: str, around: str) -> None:
    text = around.format(secret)
    assert redactor.text(text) == through_line(text)
    if secret.startswith("-----"):
        assert "MIIE" not in through_line(text)
    else:
        assert through_line(text) == around.format(REDACTED)


@pytest.mark.parametrize("secret", ["hunter2-hunter2", 'qu"ote\\d\nvälue', "nfoo12345"])
@pytest.mark.parametrize("around", SURROUNDINGS)
def test_known_values_are_taken_out_wherever_they_stand(secret: str, around: str) -> None:
    assert redactor.text(around.format(secret)) == through_line(around.format(secret)) == around.format(REDACTED)


def test_the_user_and_password_of_a_url_and_a_bearer_token_are_taken_out_and_the_rest_stays() -> None:
    for text, cleaned in (
        ("postgres://ann:pa55@db:5432/x and more", "postgres://[redacted]@db:5432/x and more"),
        ("Authorization: Bearer abcDEF123456.789_x-y=\r\n", "Authorization: Bearer [redacted]\r\n"),
        ("authorization: bearer 0123456789abcdef", "authorization: bearer [redacted]"),
    ):
        assert redactor.text(text) == through_line(text) == cleaned


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_ids_and_hashes_stay(text: str) -> None:
    assert redactor.text(text) == through_line(text) == text


def test_a_line_without_secrets_is_the_same_object() -> None:
    plain = b'{"type":"stage_entered","run_id":"r-1","stage":"route"}'
    assert redactor.line(plain) is plain


def test_an_event_keeps_its_type_and_run_though_a_secret_is_called_so() -> None:
    line = b'{"type":"run_finished","run_id":"run_finished","text":"run_finished sk-1234567890abcdef1234","n":1.5}'
    cleaned = json.loads(Redactor(["run_finished"]).line(line))
    assert cleaned == {"type": "run_finished", "run_id": "run_finished", "text": "[redacted] [redacted]", "n": 1.5}


def test_keys_of_objects_are_cleaned_of_shapes() -> None:
    line = json.dumps({"type": "x", "evidence": {SECRETS[0]: {"error": "hunter2-hunter2"}}}).encode()
    assert json.loads(redactor.line(line)) == {"type": "x", "evidence": {REDACTED: {"error": REDACTED}}}


def test_the_longest_of_several_known_values_goes_first() -> None:
    assert Redactor(["password", "password-and-more"]).text("password-and-more!") == "[redacted]!"


def test_values_of_variables_that_are_named_like_secrets_are_found() -> None:
    environ = {
        "OPENAI_API_KEY": "value-of-openai",
        "GITHUB_TOKEN": " value-of-github\n",
        "CLIENT_SECRET": "value-of-client",
        "db_password": "value-of-db",
        "AZURE_KEY_2": "value-of-azure",
        "SHORT_KEY": "short",
        "HOME": "/home/somebody",
        "KEYBOARD_LAYOUT": "value-of-keyboard",
        "MAX_TOKENS": "100000000",
        "MY_CREDENTIAL_FILE": "value-by-name",
    }
    usual = {"value-of-openai", "value-of-github", "value-of-client", "value-of-db", "value-of-azure"}
    assert secret_values(environ) == usual
    assert secret_values(environ, names=["MY_CREDENTIAL_FILE"]) == {*usual, "value-by-name"}


def test_a_redactor_does_not_show_what_it_knows() -> None:
    assert "hunter2" not in repr(redactor)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
glue = st.text(alphabet='\\"\n\t /:@{}é\x1b', max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    value=json_values,
    parts=st.lists(st.tuples(glue, st.sampled_from([*SECRETS, "hunter2-hunter2", 'qu"ote\\d\nvälue'])), max_size=3),
)
def test_a_redacted_line_is_json_of_the_same_form_without_the_secrets(
    value: object, parts: list[tuple[str, str]]
) -> None:
    text = " ".join(before + secret for before, secret in parts)
    line = json.dumps({"type": "x", "value": value, "text": text}, ensure_ascii=False).encode()
    cleaned = json.loads(redactor.line(line))
    assert cleaned["value"] == value
    assert not any(secret in cleaned["text"] for _, secret in parts)
    assert REDACTED in cleaned["text"] or not parts
