"""Actors without RTVI: pykka's actors on an event loop, supervised, with encoded mailboxes.

The files, each importing only those above it::

    clock        one heap of deadlines
    backend      the only file that knows asyncio and trio
    context      who runs, on this thread and in this task
    futures      pykka's future, awaitable
    mailbox      bytes in, bytes out; the codec; bounds
    declare      an actor's messages, from its annotations
    groups       asynchronous handlers, in tasks of the actor's own
    refs         pykka's reference, to what stays over a crash
    cell         what stays of an actor over its crashes
    actor        AnyioActor, what people write
    dispatcher   the shared run queue
    supervisor   child specs, one_for_one, restart limit
    registry     names and statistics
    threads      ThreadingActor
    system       ActorSystem, start_blocking_system
"""
