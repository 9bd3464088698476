"""`serve`: serve a live page about the record, and the queries as JSON, over HTTP."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Annotated, Final
from urllib.parse import quote

import typer

from eatnas_cli.lazy_group import new_app
from eatnas_db.database.engine import open_record
from eatnas_db.distributions import installed_versions, require_module

app = new_app()

DEFAULT_PORT: Final = 8642
NEEDED: Final = ("starlette", "uvicorn", "plotly")


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")
    ] = DEFAULT_PORT,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EATNAS_TOKEN",
            help="Token that readers must send. Default: the variable EATNAS_TOKEN. If neither is set, a loopback "
            "address needs no token, and other addresses get a random one.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Additional host name under which the server answers requests. Repeatable.",
        ),
    ] = None,
) -> None:
    """Show the searches on a live web page and serve the queries as JSON, read-only; Ctrl-C ends the server."""
    for module in NEEDED:
        require_module(module)
    from eatnas_cli.web.access import AccessRules, is_loopback, new_token, require_good_token, require_host_name
    from eatnas_cli.web.server import build_app, open_socket, run_server

    for name in allow_host or ():
        require_host_name(name)
    if token is not None:
        require_good_token(token)
    elif not is_loopback(host):
        token = new_token()
    open_record(ctx.obj.database_url).dispose()
    listener = open_socket(host, port)
    number = int(listener.getsockname()[1])
    rules = AccessRules(host, number, token, (socket.gethostname(), *(allow_host or ())))
    version = next(iter(installed_versions().values()), "unknown")
    server = build_app(ctx.obj, rules, version)
    typer.echo(_describe_address(host, number, token))
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_server(server, listener)


def _describe_address(host: str, port: int, token: str | None) -> str:
    """Return the line with the URL to open.

    If there is a token, the URL contains it, and opening the URL stores a cookie in the browser.
    """
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return f"serving {address}" if token is None else f"serving {address}?token={quote(token, safe='')}"
