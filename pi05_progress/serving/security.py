"""Who may speak to the server, and how: its address, the API key, TLS."""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
from pathlib import Path

from ..errors import UserError

KEY_VARIABLE = "PI05_PROGRESS_API_KEY"
SCHEME = "Api-Key"
SHORTEST_KEY = 16  # characters


def read_key(path: Path | None) -> str | None:
    """The API key: a file's only line, or the variable ``PI05_PROGRESS_API_KEY``; None if neither is given.

    A key is never an argument: a command line can be read by everybody on the machine. A ``UserError``: the file cannot
    be read, or as ``checked_key``.
    """
    if path is None:
        key = os.environ.get(KEY_VARIABLE, "")
        return checked_key(key, KEY_VARIABLE) if key else None
    try:
        key = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the API key cannot be read: {error}") from error
    return checked_key(key, str(path))


def checked_key(key: str, where: str) -> str:
    """A key without the white space around it, such as the end of its line.

    A ``UserError`` says where it comes from, never the key, if that is too short or has what no header can hold.
    """
    key = key.strip()
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{where}: an API key needs at least {SHORTEST_KEY} printable ASCII characters without spaces; "
            "make one with: openssl rand -hex 32"
        )
    return key


def authorization(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"{SCHEME} {key}"}


def may_enter(header: str | None, key: str | None) -> bool:
    """Whether an ``Authorization`` header shows the key; the time it takes tells at most the key's length."""
    if key is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), key.encode())
    return same and scheme.lower() == SCHEME.lower()


def check_exposure(host: str, key: str | None, auth: bool) -> None:
    """Refuse to be open to a network by accident: by a ``UserError`` if other machines can reach the address, and there
    is neither a key nor a word that none is wanted."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False  # a name, which may mean any address
    if key is None and auth and not loopback:
        raise UserError(
            f"--host {host}: other machines can reach it; give an API key (--api-key-file FILE or {KEY_VARIABLE}), "
            "or --no-auth if everybody there may use the policy"
        )
    if key is not None and not auth:
        raise UserError("an API key and --no-auth contradict each other; leave one of them out")


def server_tls(certificate: Path | None, private_key: Path | None) -> ssl.SSLContext | None:
    """TLS from certificate files in PEM, None without; a ``UserError`` if one is missing, or they cannot be used."""
    if certificate is None and private_key is None:
        return None
    if certificate is None or private_key is None:
        raise UserError("TLS needs both --tls-certificate and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise UserError(f"{certificate}, {private_key}: not a certificate with its key in PEM: {error}") from error
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a password")
