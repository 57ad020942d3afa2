"""Read a whole bucket once, as a publisher or `fleet status` does."""

from __future__ import annotations

from typing import Final

from internal_dns.replicate.bucket import Bucket, Deliveries, Delivery, Heartbeat, Unavailable
from internal_dns.replicate.logic import SILENCE_TIMEOUT, Message, Replay

# Seconds to wait for the first message: the server looks up the last one of every key.
FIRST_MESSAGE_TIMEOUT: Final = 10.0


async def read_all(bucket: Bucket) -> dict[str, Message]:
    """Return the last message of every key, including tombstones. Raises Unavailable."""
    found, _ = await read_deliveries(bucket)
    return {key: delivery.message for key, delivery in found.items()}


async def read_deliveries(bucket: Bucket) -> tuple[dict[str, Delivery], float]:
    """Return the last delivery of every key, and the time of the engine's clock before them.

    Raises Unavailable.
    """
    facts, found = await bucket.facts(), dict[str, Delivery]()
    if not facts.last:
        return found, 0.0
    async with bucket.follow(None) as deliveries:
        await _read(bucket, deliveries, Replay(0, facts.last), found)
        return found, deliveries.began


async def _read(
    bucket: Bucket, deliveries: Deliveries, replay: Replay, found: dict[str, Delivery]
) -> None:
    while not replay.complete:
        items = await deliveries.next(SILENCE_TIMEOUT if replay.heard else FIRST_MESSAGE_TIMEOUT)
        if not items:
            raise Unavailable("the bucket went silent while it was read")
        replay.heard = True
        for item in items:
            await _take(item, replay, found, bucket)


async def _take(
    item: Heartbeat | Delivery, replay: Replay, found: dict[str, Delivery], bucket: Bucket
) -> None:
    if isinstance(item, Delivery):
        if not replay.message(item.number, item.message.revision):
            raise Unavailable("a message was lost while the bucket was read; try again")
        found[item.message.key] = item
    elif not replay.heartbeat(item.delivered):
        raise Unavailable("a message was lost while the bucket was read; try again")
    elif not await bucket.any_after(replay.revision):
        replay.finish()
    elif replay.stalled:
        why = bucket.refusal() or "is the connection too slow?"
        raise Unavailable(
            f"the server delivers nothing more after {replay.delivered:,} messages, and the bucket "
            f"has more: {why}"
        )
