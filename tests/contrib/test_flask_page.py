"""docs/flask.md and its example, run as they stand there."""

from pathlib import Path

from flask_support import need
from gunicorn_server import serving
from recipe_runner import DOCS, Recipe, blocks_of, on_cluster

need("flask_caching", "flask_limiter")

BLOCKS = blocks_of("flask.md")


def test_the_page_has_these_blocks():
    assert list(BLOCKS) == ["Flask-Caching", "flask-limiter and limits"]


def test_the_cache_of_the_page(live_cluster, tmp_path):
    Recipe(tmp_path, BLOCKS["Flask-Caching"], live_cluster.seeds).check(
        "made = []",
        "@app.get('/<page>')",
        "@cache.cached()",
        "def show(page):",
        "    made.append(page)",
        "    return page",
        "assert [app.test_client().get(f'/{page}').text for page in 'aabb'] == ['a', 'a', 'b', 'b']",
        "assert made == ['a', 'b']",
    )


def test_the_limiter_of_the_page(live_cluster, tmp_path):
    Recipe(tmp_path, BLOCKS["flask-limiter and limits"], live_cluster.seeds).check(
        "app.add_url_rule('/', 'page', limiter.limit('3/hour')(lambda: 'page'))",
        "assert [app.test_client().get('/').status_code for _ in range(4)] == [200, 200, 200, 429]",
    )


def test_the_example_under_gunicorn_whose_clients_are_made_before_it_forks(live_cluster, tmp_path: Path):
    example = (DOCS / "examples" / "flask_app.py").read_text()
    (tmp_path / "flask_app.py").write_text(on_cluster(example, live_cluster.seeds))
    with serving("flask_app:app", tmp_path, {}, "--preload", path="/price/first") as gunicorn:
        assert [gunicorn.request("/price/pen").body for _ in range(3)] == ["pen costs 2"] * 3
        assert [gunicorn.request("/login").status for _ in range(6)] == [200] * 5 + [429]
