"""Scripts as bytes."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.resp import encode
from gvcluster.core.script_text import ScriptText, is_missing
from gvcluster.errors import ConfigError, ReplyError

_WORDS = st.lists(st.one_of(st.binary(), st.integers(), st.text(st.characters(codec="utf-8"))), max_size=12)
_SOURCES = st.one_of(st.binary(), st.text(st.characters(codec="utf-8")))


@given(_SOURCES, st.booleans(), _WORDS, _WORDS)
def test_a_call_with_the_source_is_that_with_the_digest_but_for_name_and_source(source, read_only, keys, args):
    text = ScriptText(source, read_only=read_only)
    by_sha = text.command(keys, args)
    name = "EVAL_RO" if read_only else "EVAL"
    assert text.with_source(encode(by_sha)) == encode((name, source, len(keys), *keys, *args))
    assert by_sha[0] == ("EVALSHA_RO" if read_only else "EVALSHA")


@given(_SOURCES)
def test_the_digest_is_that_of_the_servers(source):
    text = ScriptText(source, read_only=False)
    data = source.encode() if isinstance(source, str) else source
    assert (text.source, text.sha) == (data, hashlib.sha1(data).hexdigest())
    assert text.load == encode(("SCRIPT", "LOAD", source))
    assert text.question == encode(("SCRIPT", "EXISTS", text.sha))


@pytest.mark.parametrize("source", [None, 1, ["return 1"], "\ud800"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(ConfigError):
        ScriptText(source, read_only=False)


def test_read_only_is_a_bool():
    with pytest.raises(ConfigError, match="read_only"):
        ScriptText("return 1", read_only=1)


@pytest.mark.parametrize(("keys", "args"), [("key", []), (b"key", []), ([], "arg"), ({"key"}, []), (1, []), ([], None)])
def test_keys_and_arguments_are_lists(keys, args):
    with pytest.raises(ConfigError, match="must be a list"):
        ScriptText("return 1", read_only=False).command(keys, args)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [([0], True), ([1], False), ([], False), ([0, 0], False), ([False], False), ([b"0"], False), (0, False)],
)
def test_only_a_plain_no_means_that_it_is_missing(answer, missing):
    assert is_missing(answer) is missing


def test_an_error_means_nothing():
    assert not is_missing(ReplyError("NOPERM no"))
