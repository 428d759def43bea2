"""What `kernel doctor` looks at. Each check answers with findings, and none raises."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import kernel
from kernel import drivers, errors
from kernel.drivers import entrypoints
from kernel.drivers.entrypoints import canonical
from kernel.extensions.sources import GROUP
from kernel.hooks import Examined, Finding
from kernel.worker.status import read_statuses

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.config import Settings
    from kernel.extensions import Extensions

_SILENT: Final = 30.0
"""Seconds after which a worker that has not renewed its status file is worth a word; it does so every five."""


# --- the installation -----------------------------------------------------------------------------------------


def versions() -> Iterator[Finding]:
    python = f"Python {platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    yield Finding("versions", "ok", f"kernel {kernel.__version__}, {python}")


def import_owner() -> Iterator[Finding]:
    """Whether ``import kernel`` gives us: the public index has a package of that name that is not this project."""
    here = Path(kernel.__file__ or "").resolve().parent
    owners = [dist for dist in metadata.distributions() if _owns_kernel(dist)]
    names = {f"{dist.metadata['Name']} {dist.version}": dist for dist in owners}
    if not names:
        yield Finding(
            "import kernel",
            "warn",
            f"it comes from {here}, which no installed distribution brings",
            "install it, so that plugins and their versions are found: pip install -e .",
        )
    elif len(names) > 1:
        yield Finding(
            "import kernel",
            "fail",
            f"{' and '.join(sorted(names))} both bring a package `kernel`, and overwrite each other's files",
            "uninstall all of them, then install the one that you want again",
        )
    else:
        ((title, owner),) = names.items()
        yield _owner_finding(title, owner, here)


def _owner_finding(title: str, owner: metadata.Distribution, here: Path) -> Finding:
    ours = canonical(owner.metadata["Name"]) == "kernel" and any(
        point.group == "console_scripts" and point.value == "kernel.cli:main" for point in owner.entry_points
    )
    if not ours:
        return Finding(
            "import kernel",
            "fail",
            f"it belongs to {title}, which is not this project",
            "uninstall it, and install kernel from where this project publishes it",
        )
    place = _editable_folder(owner) or Path(str(owner.locate_file("")))
    if not here.is_relative_to(place.resolve()):
        return Finding(
            "import kernel",
            "fail",
            f"{title} is installed in {place}, and `import kernel` takes {here}",
            "a folder called kernel comes first on Python's path: run from another folder, or rename it",
        )
    if owner.version != kernel.__version__:
        return Finding(
            "import kernel",
            "warn",
            f"{title} is installed, and its files are of {kernel.__version__}",
            "install it again: pip install --force-reinstall --no-deps kernel",
        )
    return Finding("import kernel", "ok", f"{title} in {here}")


def _owns_kernel(dist: metadata.Distribution) -> bool:
    if dist.metadata is None or not dist.metadata["Name"]:
        return False
    folder = _editable_folder(dist)
    if folder is not None:
        return any((folder / source / "kernel" / "__init__.py").is_file() for source in (".", "src"))
    return any(file.parts == ("kernel", "__init__.py") for file in dist.files or ())


def _editable_folder(dist: metadata.Distribution) -> Path | None:
    """The project's folder, where it is installed editable: its files are not in its record then."""
    text = dist.read_text("direct_url.json")
    if not text:
        return None
    try:
        document = json.loads(text)
        editable = document.get("dir_info", {}).get("editable")
        return Path(unquote(urlsplit(document["url"]).path)) if editable else None
    except (ValueError, KeyError, AttributeError):
        return None


def entry_points() -> Iterator[Finding]:
    """Whether stevedore's list on disk is what is installed: it takes changes within two minutes for the same."""
    groups = [*(f"kernel.{kind}" for kind in drivers.KINDS), GROUP]
    for group in groups:
        kept = {(offer.name, offer.target) for offer in entrypoints.offers(group)}
        here = {(offer.name, offer.target) for offer in entrypoints.offers_with_owners(group)}
        if kept != here:
            names = ", ".join(sorted({name for name, _ in kept ^ here}))
            yield Finding(
                "entry points",
                "warn",
                f"the list of {group} that stevedore keeps differs from what is installed in: {names}",
                f"delete the folder {_cache_folder()}",
            )


def _cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base, "python-entrypoints"))


# --- drivers and plugins --------------------------------------------------------------------------------------


def installed_drivers(choices: Mapping[str, str]) -> Iterator[Finding]:
    """Every installed driver is imported: what is broken is said before a worker needs it."""
    count = 0
    for kind in drivers.KINDS:
        for info in drivers.available(kind, choices=choices):
            checked = drivers.check(info)
            count += 1
            if checked.state not in ("ok", "installed"):
                yield Finding(f"{kind} {info.name}", "warn", checked.detail, _remedy_of(checked.state))
    if count:
        yield Finding("drivers", "ok", f"{count} names are installed; `kernel plugins` lists them")
    else:
        yield Finding("drivers", "fail", "no driver is installed", "pip install 'kernel[sql]'")


def _remedy_of(state: str) -> str:
    return {
        "conflict": "remove one of the distributions, or choose with the setting `drivers`",
        "broken": "reinstall its distribution, or remove it",
        "incompatible": "upgrade the older side",
    }.get(state, "")


def plugins(extensions: Extensions) -> Iterator[Finding]:
    try:
        faults = extensions.faults()
    except errors.ImproperlyConfigured:
        # What is wrong there is said where the settings are looked at.
        yield Finding("plugins", "warn", "not looked at: the settings that name them cannot be read")
        return
    for fault in faults:
        yield Finding("plugins", "fail", str(fault), "mend it, or switch the plugin off with `disable_plugins`")
    rows = extensions.plugins()
    disabled = [row.name for row in rows if row.state == "disabled"]
    if not faults:
        names = ", ".join(row.name for row in rows if row.state == "enabled")
        off = f"; switched off: {', '.join(disabled)}" if disabled else ""
        yield Finding("plugins", "ok", f"{names or 'none'}{off}")


def hook_findings(app: Kernel) -> Iterator[Finding]:
    """What plugins say of what they look after."""
    try:
        answers = app.extensions.collect_from("kernel_doctor", app=app)
    except errors.KernelError as exc:
        yield Finding("kernel_doctor", "fail", str(exc), "mend the plugin, or switch it off with `disable_plugins`")
        return
    for plugin, findings in answers:
        for finding in findings:
            if isinstance(finding, Finding):
                yield finding
            else:
                yield Finding(
                    plugin, "warn", f"its kernel_doctor answered {finding!r}", "it should answer kernel.hooks.Finding"
                )


# --- the app --------------------------------------------------------------------------------------------------


def settings(conf: Settings, extensions: Extensions) -> Iterator[Finding]:
    try:
        for plugin, declared in extensions.collect_from("kernel_settings"):
            conf.declare(declared, f"the plugin {plugin}")
        conf.validate()
    except errors.PluginError:
        # Said already where plugins are looked at.
        yield Finding("settings", "warn", "not all are checked: plugins that may declare some cannot be loaded")
    except errors.ImproperlyConfigured as exc:
        yield Finding("settings", "fail", str(exc), "`kernel config` shows every value and where it came from")
    else:
        yield Finding("settings", "ok", "valid")


def configured(app: Kernel) -> Iterator[Finding]:
    """The drivers that the app's settings name: each is had, and what can be opened is opened."""
    conf = app.conf
    for setting in ("task_serializer", "result_serializer"):
        yield from _codec(app, setting, conf[setting], "serializer")
    for setting in ("accept_content", "result_accept_content"):
        for name in conf[setting] or ():
            yield from _codec(app, setting, name, "serializer", quiet=True)
    for setting in ("task_compression", "result_compression"):
        if conf.get(setting):
            yield from _codec(app, setting, conf[setting], "compressor")
    try:
        drivers.load("pools", conf.worker_pool, choices=conf.drivers)
        yield Finding(f"worker_pool {conf.worker_pool}", "ok", "installed")
    except errors.DriverError as exc:
        yield Finding(f"worker_pool {conf.worker_pool}", "fail", str(exc))
    yield from _opens(app, "broker")
    yield from _opens(app, "backend")


def _codec(app: Kernel, setting: str, name: str, kind: str, *, quiet: bool = False) -> Iterator[Finding]:
    try:
        app.codecs.serializer(name) if kind == "serializer" else app.codecs.compressor(name)
    except errors.KernelError as exc:
        yield Finding(f"{setting} {name}", "fail", str(exc))
    else:
        if not quiet:
            yield Finding(f"{setting} {name}", "ok", "installed")


def _opens(app: Kernel, part: str) -> Iterator[Finding]:
    started = time.perf_counter()
    try:
        if part == "backend" and app.backend_url is None:
            yield Finding("result backend", "ok", "none is configured; results are not kept")
            return
        opened: Any = app.broker if part == "broker" else app.backend
        said = _queues(opened) if part == "broker" else ""
    except errors.ImproperlyConfigured as exc:
        yield Finding(_PART[part], "fail", str(exc))
    except (errors.KernelError, OSError) as exc:
        yield Finding(
            _PART[part], "fail", f"it does not open: {exc}", f"check that it runs and that {_URL[part]} is right"
        )
    except Exception as exc:
        # A driver of anyone's: whatever it raises is a finding, and the other checks still run.
        yield Finding(_PART[part], "fail", f"it does not open: {type(exc).__name__}: {exc}", "a fault of the driver")
    else:
        shown = app.addresses.broker_shown if part == "broker" else type(opened).__name__
        took = (time.perf_counter() - started) * 1000
        yield Finding(_PART[part], "ok", f"{shown} opened in {took:.0f} ms{said}")
        yield from _examined(opened, part)


def _examined(opened: Any, part: str) -> Iterator[Finding]:
    """What a driver says of its server."""
    if not isinstance(opened, Examined):
        return
    try:
        yield from opened.findings()
    except Exception as exc:
        yield Finding(_PART[part], "warn", f"its findings failed: {type(exc).__name__}: {exc}", "a fault of the driver")


_PART: Final = {"broker": "broker", "backend": "result backend"}
_URL: Final = {"broker": "broker_url", "backend": "result_backend"}


def _queues(broker: Any) -> str:
    stats = list(broker.stats())
    ready, dead = sum(queue.ready for queue in stats), sum(queue.dead for queue in stats)
    paused = [queue.name for queue in stats if queue.paused]
    said = f"; {len(stats)} queue{'' if len(stats) == 1 else 's'}, {ready} messages ready, {dead} dead letters"
    return said + (f"; paused: {', '.join(paused)}" if paused else "")


# --- workers on this machine ----------------------------------------------------------------------------------


def workers() -> Iterator[Finding]:
    """What the workers of this user on this machine wrote into their status files."""
    for status in read_statuses():
        yield _worker(status)


def _worker(status: Mapping[str, Any]) -> Finding:
    subject = f"worker {status.get('hostname') or status.get('pid')}"
    blocked = status.get("blocked")
    if isinstance(blocked, Mapping):
        plugin, hook = blocked.get("plugin"), blocked.get("hook")
        return Finding(
            subject,
            "fail",
            f"the plugin {plugin!r} has been blocking it in {hook} for {blocked.get('seconds')} seconds; nothing is "
            "dispatched meanwhile, and leases stay alive",
            f"mend the plugin, or start the worker with KERNEL_DISABLE_PLUGINS={plugin}",
        )
    age = time.time() - float(status.get("written") or 0)
    if age > _SILENT:
        return Finding(subject, "warn", f"it lives, and has not reported for {age:.0f} seconds", "look at its log")
    return Finding(subject, "ok", f"pid {status.get('pid')}, {status.get('held', 0)} messages in hand")
