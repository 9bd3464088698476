"""The arguments of each tool for the record of `recorded_search`, and the command that gives the same answer."""

ANSWERS = {
    "query_best": ({"name": "small", "top": 3}, ["query", "best", "small", "--top", "3"]),
    "query_lineage": ({"name_or_id": "small"}, ["query", "lineage", "small"]),
    "query_descendants": ({"candidate": 1}, ["query", "descendants", "1"]),
    "query_population": ({"name": "small", "sort": "-fitness"}, ["query", "population", "small", "--sort=-fitness"]),
    "query_quality": ({"name": "small", "limit": 5}, ["query", "quality", "small", "--limit", "5"]),
    "query_compare": ({"names": ["small", "small"]}, ["query", "compare", "small", "small"]),
    "query_primitives": ({"name": "small", "block": 2}, ["query", "primitives", "small", "--block", "2"]),
    "query_mutations": ({"name": "small"}, ["query", "mutations", "small"]),
    "query_pareto": ({"name": "small", "cost": "params"}, ["query", "pareto", "small", "--cost", "params"]),
    "query_calibration": ({"name": "small"}, ["query", "calibration", "small"]),
    "query_utilisation": ({"name": "small"}, ["query", "utilisation", "small"]),
    "query_sql": ({"question": "SELECT name FROM searches"}, ["query", "sql", "SELECT name FROM searches"]),
    "query_events": ({"name": "small", "limit": 3}, ["query", "events", "small", "--limit", "3"]),
    "query_failures": ({"name": "small", "where": ["birth>0"]}, ["query", "failures", "small", "--where", "birth>0"]),
    "query_fingerprint": ({"name": "small"}, ["query", "fingerprint", "small"]),
    "search_list": ({}, ["search", "list"]),
    "search_show": ({"name": "small"}, ["search", "show", "small"]),
    "candidate_show": ({"candidate": 3}, ["candidate", "show", "3"]),
    "daemon_status": ({}, ["daemon", "status"]),
    "space_show": ({"name": "eatnas-tiny"}, ["space", "show", "eatnas-tiny"]),
}
