"""The time zone of an app."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo


class LocalZone(tzinfo):
    """The zone of this machine, with its summer time: a fixed offset would be wrong half of the year."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        # `timestamp()` of a naive datetime reads it in the zone of the machine.
        at = time.time() if moment is None else moment.replace(tzinfo=None).timestamp()
        return timedelta(seconds=time.localtime(at).tm_gmtoff)

    def dst(self, moment: datetime | None) -> timedelta:
        at = time.time() if moment is None else moment.replace(tzinfo=None).timestamp()
        standard = timedelta(seconds=-time.timezone)
        return self.utcoffset(moment) - standard if time.localtime(at).tm_isdst else timedelta(0)

    def fromutc(self, moment: datetime) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        return local.replace(tzinfo=self)

    def tzname(self, moment: datetime | None) -> str:
        at = time.time() if moment is None else moment.replace(tzinfo=None).timestamp()
        return time.localtime(at).tm_zone


def zone_of(setting: str | tzinfo | None, *, enable_utc: bool) -> tzinfo:
    """What the setting `timezone` means: a name, a zone, or None for UTC (the local zone without `enable_utc`)."""
    if isinstance(setting, tzinfo):
        return setting
    if setting is None or not setting:
        return UTC if enable_utc else LocalZone()
    if setting.upper() == "UTC":
        return UTC
    if setting.lower() == "local":
        return LocalZone()
    import zoneinfo  # most apps keep UTC

    return zoneinfo.ZoneInfo(setting)
