"""docs/recipes.md: each recipe is run as it stands there, with the library's own workers where it has some."""

import re
import sys
from pathlib import Path

import pytest
from flask_support import eventually, need
from recipe_runner import DOCS, Recipe, blocks_of

need("cachelib", "dogpile.cache", "dramatiq", "flask_session", "huey", "redis", "socketio")

from gvcluster import Cluster
from gvcluster.testing import LocalCluster

RECIPES = blocks_of("recipes.md")


@pytest.fixture
def recipe(request: pytest.FixtureRequest, live_cluster: LocalCluster, tmp_path: Path) -> Recipe:
    """The recipe that the test names."""
    return Recipe(tmp_path, RECIPES[request.param], live_cluster.seeds)


def of(library: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recipe", [library], indirect=True, ids=[library])


def test_the_page_has_these_recipes_and_its_table_names_them():
    libraries = ["cachelib", "Flask-Session", "dogpile.cache", "huey", "dramatiq", "python-socketio", "locust"]
    assert list(RECIPES) == libraries
    assert re.findall(r"^\| \[(\S+)\]", (DOCS / "recipes.md").read_text(), re.MULTILINE) == libraries


@of("cachelib")
@pytest.mark.parametrize("patched", [True, False], ids=["patched", "unpatched"])
def test_cachelib(recipe, patched):
    recipe.check(
        "values = {f'key{number}': [number] for number in range(100)}",
        "assert cache.set_many(values, 60) == list(values)",
        "assert cache.get_many(*values) == list(values.values())",
        "assert cache.add('key1', 1) is False and cache.inc('n', 5) == 5 and cache.dec('n') == 4",
        "assert len(cache.delete_many('key1', 'key2', 'none')) == 3 and not cache.has('key1')",
        "cache._write_client.set('other', 1)",
        "assert cache.clear() and not cache.has('key3') and cache._write_client.get('other') == b'1'",
        patched=patched,
    )


@of("Flask-Session")
def test_flask_session(recipe):
    recipe.check(
        "from flask import session",
        "@app.get('/<word>')",
        "def page(word):",
        "    before = session.get('words', [])",
        "    session['words'] = [*before, word]",
        "    return before",
        "ann, bob = app.test_client(), app.test_client()",
        "assert [ann.get('/a').json, bob.get('/b').json, ann.get('/c').json, ann.get('/d').json, bob.get('/e').json]"
        " == [[], [], ['a'], ['a', 'c'], ['b']]",
        "assert len(list(app.config['SESSION_CACHELIB']._read_client.scan_iter('session:*'))) == 2",
    )


@of("dogpile.cache")
def test_dogpile_cache(recipe):
    recipe.check(
        "import gevent",
        "made = []",
        "@region.cache_on_arguments()",
        "def square(number):",
        "    made.append(number)",
        "    gevent.sleep(0.1)",
        "    return number * number",
        "work = [gevent.spawn(square, 7) for _ in range(20)]",
        "gevent.joinall(work, raise_error=True)",
        "assert [each.value for each in work] == [49] * 20 and made == [7]",
        "region.set_multi({f'k{number}': number for number in range(50)})",
        "assert region.get_multi([f'k{number}' for number in range(50)]) == list(range(50))",
        "region.delete_multi([f'k{number}' for number in range(50)])",
        "assert not region.get('k1')",
        "square.invalidate(7)",
        "assert square(7) == 49 and made == [7, 7]",
    )


@of("huey")
def test_huey_with_its_consumer(recipe):
    with recipe.running("-m", "huey.bin.huey_consumer", "app.huey", "-k", "greenlet", "-w", "10"):
        recipe.check(
            "results = [add(number, 1) for number in range(100)]",
            "assert [result(blocking=True, timeout=60) for result in results] == list(range(1, 101))",
            "later = add.schedule((20, 3), delay=1)",
            "assert later(blocking=True, timeout=60) == 23",
        )


@of("dramatiq")
def test_dramatiq_with_its_workers(recipe):
    with recipe.running(
        str(Path(sys.executable).with_name("dramatiq-gevent")), "app", "--processes", "1", "--threads", "8"
    ):
        recipe.check(
            "messages = [add.send(number, 1) for number in range(100)]",
            "assert [each.get_result(block=True, timeout=60000) for each in messages] == list(range(1, 101))",
            "later = add.send_with_options(args=(20, 3), delay=500)",
            "assert later.get_result(block=True, timeout=60000) == 23",
            "broker.join('default', timeout=60000)",
        )


@of("dramatiq")
def test_dramatiq_without_braces_is_refused_as_the_page_says(recipe):
    recipe.check(
        "plain = RedisBroker(client=client)",
        "plain.declare_queue('default')",
        "try:",
        "    plain.do_qsize('default')",
        "except Exception as error:",
        "    assert 'ttempted to access a non local key in a cluster node' in str(error), error",
        "else:",
        "    raise AssertionError('it works')",
    )


@of("python-socketio")
def test_python_socketio(recipe):
    recipe.check(
        "import gevent, gevent.pywsgi, urllib.request",
        "web = gevent.pywsgi.WSGIServer(('127.0.0.1', 0), app, log=None)",
        "web.start()",
        "def ask(more='', data=None):",
        "    url = f'http://127.0.0.1:{web.server_port}/socket.io/?EIO=4&transport=polling{more}'",
        "    return urllib.request.urlopen(url, data, timeout=60).read().decode()",
        "sid = '&sid=' + __import__('json').loads(ask()[1:])['sid']",
        "assert ask(sid, b'40') == 'OK' and ask(sid).startswith('40')",
        "def subscribers(node):",
        "    return client.gvcluster.execute('PUBSUB', 'NUMSUB', 'socketio', node=node)[1]",
        "while not sum(map(subscribers, client.gvcluster.primaries())):",
        "    gevent.sleep(0.05)",
        "other = Manager(write_only=True)",
        "other.emit('news', {'from': 'another process'})",
        'assert ask(sid) == \'42["news",{"from":"another process"}]\'',
        "web.stop()",
    )


@of("locust")
def test_locust_from_its_command_line(recipe, live_cluster):
    with recipe.running(
        "-m", "locust", "-f", "app.py", "--headless", "-u", "20", "-r", "20", "--only-summary"
    ) as locust:
        with Cluster(live_cluster.seeds) as cluster:
            eventually(lambda: int(cluster.execute("GET", "visits") or 0) > 100)
        locust.terminate()
        assert locust.wait(timeout=60) == 0
    log = recipe.log().partition("Response time percentiles")[0]
    ((requests, failures),) = re.findall(r"Aggregated\s+(\d+)\s+(\d+)", log)
    assert int(requests) > 200
    assert int(failures) == 0
