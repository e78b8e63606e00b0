"""Actors without RTVI: pykka's actors on an event loop, supervised, with encoded mailboxes.

The files, each importing only those above it::

    clock        one heap of deadlines
    backend      the only file that knows asyncio and trio
    context      who runs, on this thread and in this task
    futures      pykka's future, awaitable
    mailbox      bytes in, bytes out; the codec; bounds
    declare      an actor's messages, from its annotations
    groups       asynchronous handlers, in tasks of the actor's own
    signals      stop, crash, inspect; Terminated, dead letters, books
    refs         pykka's reference, to what stays over a crash
    handling     letters through handlers, and what is lost
    cell         what stays of an actor over its crashes
    actor        AnyioActor, what people write
    dispatcher   the shared run queue
    watchdog     who holds the event loop
    supervisor   child specs, strategies, back-off, restart limit
    registry     names and statistics
    threads      ThreadingActor
    system       ActorSystem, start_blocking_system
    choices      what a seed decides
    virtual      an event loop whose order and time are decisions
    post         mail on its way, with faults
    simulation   a system that runs on these
"""
