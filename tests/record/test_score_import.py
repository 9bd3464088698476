"""Scores that were measured elsewhere become a finished search, from which other searches can start."""

import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from eatnas_db.database.engine import open_record
from eatnas_db.database.transactions import read_transaction, transaction
from eatnas_db.domain.macro import Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.domain.spec import parse_spec
from eatnas_db.domain.states import Origin, SearchKind
from eatnas_db.errors import ConflictError, DataError, EatnasError, NotFoundError
from eatnas_db.integrity.check import list_violations
from eatnas_db.queries.fingerprint import get_fingerprint
from eatnas_db.queries.ranking import list_best, list_living
from eatnas_db.queries.searches import get_search
from eatnas_db.record_files import FileFormat, export_record, import_record
from eatnas_db.schema.candidates import candidate
from eatnas_db.schema.events import event
from eatnas_db.schema.searches import search
from eatnas_db.score_files import parse_scores
from eatnas_db.searches.control import extend_search
from eatnas_db.searches.retrain import create_final_training, create_reevaluation
from eatnas_db.searches.score_import import import_score_file, make_origin
from eatnas_db.searches.transfer import create_transfer
from eatnas_db.settings import Settings
from eatnas_db.spaces import find_space
from support.databases import ON_SQLITE
from support.empty_records import create_empty_record

TASK = Task(8, 1, 10)
SPACE = Space(find_space("eatnas-tiny"), TASK)


@pytest.fixture
def engine(url):
    """Return an empty record. The rows of the usual record have ids that a server's sequences do not know."""
    if url.startswith("sqlite"):
        create_empty_record(url).dispose()
    opened = open_record(url)
    yield opened
    opened.dispose()


def draw_codes(count):
    held = set()
    codes = []
    for number in range(count):
        proposal = SPACE.sample(KeyedRng(3, "sample", number), held.__contains__)
        held.add(proposal.digest)
        codes.append(str(proposal.architecture))
    return codes


CODES = draw_codes(30)
SCORES = [(number * 7 % 30) / 32 for number in range(30)]


def write_csv(folder, text=None, name="prior.csv"):
    file = Path(folder, name)
    lines = [f"{code},{score},{number},3" for number, (code, score) in enumerate(zip(CODES, SCORES, strict=True))]
    file.write_text("\n".join(["code,score,seed,epochs", *lines]) if text is None else text, newline="")
    return file


def import_file(url, file, name="prior", metric="val_accuracy", direction=None, space="eatnas-tiny"):
    settings = Settings(file.parent, url, "a-host")
    origin = make_origin("cifar10", metric, direction)
    return import_score_file(settings, file, name=name, space=space, origin=origin, task=TASK)


def count_rows(engine, table):
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar()


def test_imported_scores_are_a_finished_search(engine, url, tmp_path):
    imported = import_file(url, write_csv(tmp_path))

    assert (imported.search, imported.candidates) == ("prior", 30)
    with read_transaction(engine) as connection:
        record = get_search(connection, "prior")
        best = list_best(connection, record.id, 30)
        living = list_living(connection, record.id)
    assert (record.kind, record.status, record.scored) == (SearchKind.IMPORTED, "finished", 30)
    assert [(row.code, row.fitness) for row in best] == sorted(
        zip(CODES, SCORES, strict=True), key=lambda pair: -pair[1]
    )
    assert {row.origin for row in best} == {Origin.IMPORTED}
    assert [row.id for row in living] == [row.id for row in best[: record.population]]
    assert list(list_violations(engine, tmp_path)) == []


def test_search_starts_from_imported_scores(engine, url, tmp_path):
    import_file(url, write_csv(tmp_path))
    tree = {
        "name": "next",
        "space": "eatnas-tiny",
        "data": {"name": "digits"},
        "evolution": {"population": 4, "tournament": 2},
        "budget": {"candidates": 8},
    }
    options = {"task": TASK, "data_digest": "d" * 64, "slots": 1, "now": 2.0}
    with transaction(engine) as connection:
        for absent in (2**70, 0, -1):
            with pytest.raises(NotFoundError, match=f"has no candidate {absent};"):
                create_transfer(connection, "prior", parse_spec(tree), candidate_id=absent, **options)
        create_transfer(connection, "prior", parse_spec(tree), **options)
        first = connection.execute(select(candidate.c.code).where(candidate.c.origin == Origin.BASIC)).scalar()
        inherited = parse_spec({**tree, "name": "heir", "transfer": {"weights": "inherited"}})
        with pytest.raises(ConflictError, match="were imported, so there are no weights"):
            create_transfer(connection, "prior", inherited, **options)
        guided = {**tree["evolution"], "births": "guided"}
        modelled = parse_spec({**tree, "name": "modelled", "evolution": guided, "transfer": {"start": "model"}})
        create_transfer(connection, "prior", modelled, **options)

    assert first == CODES[SCORES.index(max(SCORES))]
    assert list(list_violations(engine, tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("code,score\n", "no line below"),
        ("code;accuracy\n", "has no column score"),
        ("code,score,score\n", "names the column score 2 times"),
        (f"code,score\n{CODES[0]},nan\n", r"line 2, column score: 'nan' is not a finite number"),
        (f"code,score\n{CODES[0]},inf\n", r"line 2, column score"),
        (f"code,score\n{CODES[0]},1e999\n", r"line 2, column score"),
        (f"code,score\n{CODES[0]},0_1\n", r"line 2, column score"),
        (f"code,score\n{CODES[0]},93.1\n", r"from 0 to 1; divide percentages"),
        (f"code,score\n{CODES[0]},\n", r"line 2, column score: no value"),
        ("code,score\n,0.5\n", r"line 2, column code: no value"),
        (f"code,score\n{CODES[0]},0.5\n\nmb9_k3_d1_w1.0,0.5\n", r"line 4, column code: .*space eatnas-tiny: .*block 1"),
        (f"code,score\n{CODES[0]}/mb3_k3_d1_w1.0,0.5\n", r"line 2, column code: .* number of blocks is 7"),
        (
            f"code,score\n{CODES[0]},0.5\n{CODES[1]},0.5\n{CODES[0]},0.6\n",
            "line 4, column code: .* same network as line 2",
        ),
        (
            f"code,score\n{CODES[0]},0,5\n",
            "line 2: expected 2 values, one for each column of the first line, but got 3",
        ),
        (f'code,score\n"{CODES[0]},0.5\n', "not CSV"),
        (f"code,score,seed\n{CODES[0]},0.5,-1\n", r"column seed: '-1' is not a whole number from 0"),
        (f"code,score,seed\n{CODES[0]},0.5,{2**63}\n", r"column seed"),
        (f"code,score,epochs\n{CODES[0]},0.5,0\n", r"column epochs: '0' is not a whole number from 1 to 100000"),
    ],
)
def test_damaged_file_names_the_place(tmp_path, text, message):
    file = write_csv(tmp_path, text)

    with pytest.raises(DataError, match=message) as raised:
        parse_scores(file, file.read_bytes(), SPACE, metric="val_accuracy")

    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(file))


def test_score_whose_sums_overflow_is_refused(tmp_path):
    file = write_csv(tmp_path, f"code,score\n{CODES[0]},-1e308\n")
    with pytest.raises(DataError, match=r"column score: .-1e308. is over 1e\+150"):
        parse_scores(file, file.read_bytes(), SPACE, metric="val_loss")


@ON_SQLITE
def test_damaged_file_changes_nothing(engine, url, tmp_path):
    good = write_csv(tmp_path)
    bad = write_csv(tmp_path, good.read_text() + f"\n{CODES[0]},0.5,0,1", "bad.csv")
    for file, name, message in (
        (bad, "bad", "line 32"),
        (tmp_path / "absent.csv", "absent", "No such file"),
        (good, "a name", "'a name' is not a valid name of a search: .*--name"),
    ):
        with pytest.raises(EatnasError, match=message):
            import_file(url, file, name)
    with pytest.raises(EatnasError, match="cannot be imported"):
        import_file(url, good, metric="test_accuracy")

    assert [count_rows(engine, table) for table in (search, candidate, event)] == [0, 0, 0]


@pytest.mark.parametrize("change", ["\ufeff{}", "bom and crlf", ";", "\t", "empty first line", "upper"])
def test_spellings_of_csv_are_read_alike(tmp_path, change):
    file = write_csv(tmp_path)
    expected = parse_scores(file, file.read_bytes(), SPACE, metric="val_accuracy").rows
    text = file.read_text()
    changed = {
        "\ufeff{}": "\ufeff" + text,
        "bom and crlf": "\ufeff" + text.replace("\n", "\r\n") + "\r\n\r\n",
        ";": text.replace(",", ";"),
        "\t": text.replace(",", "\t"),
        "empty first line": "\n" + text.replace(",", ";"),
        "upper": text.replace("code,score", '"Code", Score '),
    }[change]

    other = parse_scores(file, changed.encode(), SPACE, metric="val_accuracy")

    assert other.rows == expected
    assert len(expected) == 30


@ON_SQLITE
def test_same_file_is_imported_once(engine, url, tmp_path):
    file = write_csv(tmp_path)
    import_file(url, file)

    with pytest.raises(ConflictError, match="was imported before, as search 'prior'"):
        import_file(url, file, "again")
    with pytest.raises(ConflictError, match="'prior' already exists; choose another name"):
        import_file(url, write_csv(tmp_path, f"code,score\n{CODES[0]},0.5", "other.csv"))

    assert count_rows(engine, search) == 1


@ON_SQLITE
def test_lower_is_better_for_a_loss(engine, url, tmp_path):
    import_file(url, write_csv(tmp_path), metric="val_loss")

    with read_transaction(engine) as connection:
        best = list_best(connection, get_search(connection, "prior").id, 1)
    assert best[0].code == CODES[SCORES.index(min(SCORES))]
    assert list(list_violations(engine, tmp_path)) == []


@ON_SQLITE
def test_imported_search_trains_nothing(engine, url, tmp_path):
    import_file(url, write_csv(tmp_path))

    with transaction(engine) as connection:
        for change in (
            lambda: extend_search(connection, "prior", candidates=1, now=2.0),
            lambda: create_reevaluation(connection, "prior", top=1, seeds=1, now=2.0),
            lambda: create_final_training(connection, "prior", now=2.0),
        ):
            with pytest.raises(ConflictError, match=r"were imported.*eatnas-db transfer prior SPEC\.yaml"):
                change()


def test_exported_scores_keep_their_fingerprint(tmp_path):
    urls = [f"sqlite:///{tmp_path / name}" for name in ("old.db", "new.db")]
    for url in urls:
        create_empty_record(url).dispose()
    import_file(urls[0], write_csv(tmp_path))
    old, new = map(open_record, urls)
    export_record(old, tmp_path / "out", FileFormat.JSONL)
    import_record(new, tmp_path / "out")

    prints = []
    for engine in (old, new):
        with read_transaction(engine) as connection:
            prints.append(get_fingerprint(connection, get_search(connection, "prior").id))
    assert prints[0] == prints[1]
    assert prints[0].candidates == 30


@ON_SQLITE
def test_event_names_the_file(engine, url, tmp_path):
    file = write_csv(tmp_path)
    import_file(url, file)

    with read_transaction(engine) as connection:
        detail = connection.execute(select(event.c.detail).where(event.c.kind == "created")).scalar()
    assert json.loads(detail)["file"] == file.name
    assert json.loads(detail)["task"] == "cifar10"
