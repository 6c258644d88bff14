"""What a server refuses with, in the words of each version and client, and what is said about it."""

from __future__ import annotations

import ssl

import pytest
import redis

from paigeant_celery.core.refusals import refusal_of, without_arguments

IN_A_SCRIPT = "Error running script (call to f_0123): @user_script:9: @user_script: 9: -{}"


@pytest.mark.parametrize(
    ("error", "begins", "mistake"),
    [
        (redis.ReadOnlyError("You can't write against a read only replica."), "READONLY: ", False),
        (redis.ResponseError(IN_A_SCRIPT.format("READONLY You can't write")), "READONLY: ", False),
        (redis.ConnectionError("The previous master is now a slave"), "READONLY: ", False),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF: ", False),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), "MISCONF: ", False),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory"), "OOM: ", False),
        (redis.ResponseError(IN_A_SCRIPT.format("OOM command not allowed")), "OOM: ", False),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING: ", False),
        (redis.ResponseError("LOADING Redis is loading"), "LOADING: ", False),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), "MASTERDOWN: ", False),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS: ", False),
        (redis.ResponseError("BUSY Redis is busy running a script."), "BUSY: ", False),
        (redis.ConnectionError("max number of clients reached"), "all connections that `maxclients` allows", False),
        (redis.AuthenticationError("Authentication required."), "NOAUTH: ", True),
        (redis.AuthenticationError("HELLO must be called with the client already authenticated"), "NOAUTH: ", True),
        (redis.AuthenticationError("invalid username-password pair or user is disabled."), "WRONGPASS: ", True),
        (redis.AuthenticationError("invalid password"), "WRONGPASS: ", True),
        (redis.ResponseError("DENIED Redis is running in protected mode"), "DENIED: ", True),
        (redis.ResponseError("DB index is out of range"), "it has no database", True),
        (redis.exceptions.NoPermissionError("User u has no permissions to run the 'client|setname' command"),
         "NOPERM: the rules of its user do not permit `CLIENT SETNAME`", True),
        (redis.exceptions.NoPermissionError("this user has no permissions to access one of the keys"),
         "NOPERM: the rules of its user do not permit these keys", True),
        (redis.ResponseError("ACL failure in script: No permissions to access a key"),
         "NOPERM: the rules of its user do not permit these keys", True),
        (redis.ResponseError("The user executing the script can't run this command or subcommand"),
         "NOPERM: the rules of its user do not permit a command", True),
        (redis.sentinel.MasterNotFoundError("No master found for 'm'"), "none of the sentinels", False),
        (ssl.SSLCertVerificationError(), "its certificate is not accepted", True),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "TLS fails", True),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "it ended TLS", False),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), "nobody answers in TLS", False),
    ],
)  # fmt: skip
def test_each_refusal_has_a_name_and_a_remedy(error: Exception, begins: str, mistake: bool) -> None:
    """Those that pass are waited out, the others end a start."""
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message, error.verify_code = "certificate has expired", 10
    refusal = refusal_of(error, rule="~p:* +@all")

    assert refusal is not None
    assert refusal.cause.startswith(begins)
    assert (refusal.mistake, bool(refusal.remedy)) == (mistake, True)
    assert "{" not in refusal.cause + refusal.remedy


@pytest.mark.parametrize(
    "error",
    [
        None,
        redis.ConnectionError("Error 111 connecting to h:6379. Connection refused."),
        redis.TimeoutError("Timeout reading from h:6379"),
        redis.ResponseError("BUSYGROUP Consumer Group name already exists"),
        redis.ResponseError("ERR unknown command 'EVALSHA', with args beginning with: 'READONLY'"),
        ValueError("READONLY"),
        ConnectionResetError(),
        FileNotFoundError(),
    ],
)
def test_what_no_server_says_is_no_refusal(error: Exception | None) -> None:
    """An address at which nobody answers keeps the text that says so."""
    assert refusal_of(error) is None


def test_a_refusal_is_found_behind_the_errors_of_a_client() -> None:
    """Clients raise errors of their own after those of the system; what came before by chance is not theirs."""
    inner = ssl.SSLEOFError(8, "EOF occurred")
    caused, after, by_chance = RuntimeError(), RuntimeError(), RuntimeError()
    caused.__cause__ = after
    after.__context__ = inner
    by_chance.__context__ = redis.ReadOnlyError("You can't write")

    assert refusal_of(caused) == refusal_of(inner) is not None
    assert refusal_of(by_chance) is None


def test_a_connection_that_breaks_off_is_explained_only_without_tls() -> None:
    """It may be a server that wants TLS."""
    assert refusal_of(ConnectionResetError(), plain=True) is not None


def test_what_a_server_repeats_of_a_call_is_cut_off() -> None:
    """It may be an envelope."""
    assert without_arguments("unknown command, with args beginning with: 'secret'") == "unknown command"
    assert without_arguments(f"no script: {'0' * 40} secret") == "no"
