"""Whether a Redis server is fit to keep the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from paigeant_celery.core.errors import ConfigurationError, OutdatedVersion, Unreachable
from paigeant_celery.store.redis_client import PERMISSIONS, Server

__all__ = ["check_server"]

MEBI = 1 << 20  # bytes
NEARLY_FULL = 0.9  # of `maxmemory`; what is left may be needed within an hour


def check_server(server: Server, *, allow_eviction: bool) -> list[str]:
    """Return warnings; raises as `RedisStore.check` does. What waiting cannot cure is a mistake."""
    try:
        return _check(server, allow_eviction=allow_eviction)
    except Unreachable as error:
        refusal = server.refusal_of(error.__cause__)
        if refusal is None or not refusal.mistake:
            raise
        text = f"{error} (`paigeant_store_url`)"
    raise ConfigurationError([text])


def _check(server: Server, *, allow_eviction: bool) -> list[str]:
    _refuse_unknown_master(server)
    _refuse_cluster(server)
    format_ = server.ask(lambda c: c.redis.hget(f"{server.prefix}:meta", "format"), about="meta")
    mistakes = list(_format_mistakes(format_, server))
    _refuse_missing_permissions(server)
    config = server.permitted(lambda c: c.redis.config_get("maxmemory-policy", "appendonly"))
    warnings = [*_tls_warnings(server), *_config_warnings(server, config), *_memory_warnings(server)]
    policy = config.get("maxmemory-policy", "noeviction") if config is not None else "noeviction"
    if policy != "noeviction":
        evicts = f"the store {server.address} has `maxmemory-policy {policy}` and may evict running workflows"
        if allow_eviction:
            warnings.append(f"{evicts}; `paigeant_allow_eviction` permits it")
        else:
            mistakes.append(f"{evicts}; set it to `noeviction`, or set `paigeant_allow_eviction = True`")
    if mistakes:
        raise ConfigurationError(mistakes)
    return warnings


def _refuse_unknown_master(server: Server) -> None:
    known, name = server.masters(), server.endpoint.master_name
    if known is None or name in known:
        return
    watched = ", ".join(map(repr, sorted(known))) or "none"
    text = (
        f"the sentinels of the store {server.address} watch no primary {name!r}; they watch {watched}: correct "
        "`master_name`"
    )
    raise ConfigurationError([text])


def _refuse_missing_permissions(server: Server) -> None:
    refused = server.run("probe", about="probe")
    if not refused:
        return
    what = "the keys of its prefix" if refused == ["keys"] else ", ".join(refused)
    text = (
        f"the user of the store {server.address} may not use {what}; `ACL SETUSER … ~{server.prefix}:* {PERMISSIONS}` "
        "permits all that is needed"
    )
    raise ConfigurationError([text])


def _refuse_cluster(server: Server) -> None:
    info = server.permitted(lambda c: c.redis.info("cluster")) or {}
    if str(info.get("cluster_enabled", 0)) == "1":
        text = f"the store {server.address} is a Redis Cluster, which is not supported; use one Redis primary"
        raise ConfigurationError([text])


def _config_warnings(server: Server, config: Mapping[str, str] | None) -> list[str]:
    if not config:
        return [
            f"the store {server.address} does not permit CONFIG GET; make sure that it has `maxmemory-policy "
            "noeviction` and `appendonly yes`"
        ]
    if config.get("appendonly", "yes") == "yes":
        return []
    return [
        f"the store {server.address} has no append-only file; a restart of the server loses what it recorded since "
        "the last snapshot: set `appendonly yes`"
    ]


def _memory_warnings(server: Server) -> Iterator[str]:
    """Yield that the server is full, or soon is: then it still answers what is read, and looks well."""
    info = server.permitted(lambda c: c.redis.info("memory")) or {}
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used >= most * NEARLY_FULL:
        full = "is full" if used >= most else "is nearly full"
        sizes = f"{used / MEBI:.1f} of {most / MEBI:.1f} MiB"
        yield (
            f"the store {server.address} {full}: {sizes} (`maxmemory`) are in use, and nothing goes on in a full one; "
            "raise `maxmemory`, or remove what is not needed there"
        )


def _tls_warnings(server: Server) -> list[str]:
    if server.endpoint.verifies:
        return []
    return [
        f"the store {server.address} is reached over TLS, but nobody verifies its certificate: who answers instead of "
        "it reads every record; set `ssl_cert_reqs` to 'required', in `broker_use_ssl` or the store's URL"
    ]


def _format_mistakes(found: str | None, server: Server) -> Iterator[str]:
    """Yield what is wrong with the format. If it is an older one, the records are read, and the format is raised."""
    own = server.limits.format
    if found is None or (found.isdecimal() and int(found) <= own):
        return
    if found.isdecimal():
        yield str(OutdatedVersion(server.address, server.prefix, int(found), own))
    else:
        yield (
            f"the records under {server.prefix!r} have no number as their format; something else writes under this "
            "prefix: move it away, or choose another `paigeant_prefix`"
        )
