"""Text: what the user writes goes into the bot's context behind the turn that it interrupts (send-text, send-file,
append-to-context). Keys of the keypad, and binary interruption frames, too; they never wait.

A text that is to run interrupts the bot, and then waits until the bot has said that the interrupted turn is committed
(`TurnCommitted`), at most `commit_timeout_s`; other texts wait behind it, each with its own interruption in its turn.
Nothing else does: the number of a text that waits is released before it has ended (`Release.outcome`). What waits is in
the ledger. Whatever goes to the bot goes by the door, so all of a number stands in its place.

A text that wants another kind of answer than the TTS switch says sets the switch for its own turn and puts it back
(RTVI 1.1, `options.audio_response`; pipecat-ai 1.14.0, observed). This actor knows the switch, over its crashes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import structs

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import ClientError, InvalidData, NoFiles, Overloaded, Rejected
from rtvi_actors.files import SCHEME, FileStore, StoredFile
from rtvi_actors.frames import InputDTMF, Interruption, LLMConfigureOutput, LLMMessage, LLMMessagesAppend, UserFile
from rtvi_actors.ledger import WaitingText
from rtvi_actors.messages import (
    INTERRUPTION,
    CommitExpired,
    Outcome,
    OutputConfigured,
    Received,
    Release,
    ReleaseTexts,
    TurnCommitted,
)
from rtvi_actors.protocol.client import AppendToContext, Dtmf, SendFile, SendFileOptions, SendText, SendTextOptions
from rtvi_actors.protocol.codec import from_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.files import MAX_BYTES, FilePolicy, FileUrl, read_file
from rtvi_actors.runtime.clock import Timer

__all__ = ["Text"]

logger = logging.getLogger("rtvi_actors")

MAX_KEYS: Final = 1024
"""Keys of one dtmf: far more than anybody dials."""
MAX_READ_BYTES: Final = MAX_BYTES
"""What texts that go to the bot together may bring of uploads; one of any size does. The door can refuse only what has
no room as it is sent, a handler's mail leaves when it returns, and many texts that wait may name the same upload."""


class Text(BuiltIn):
    """`files` is the policy for send-file, `None` where the bot takes none; `store` has what was uploaded."""

    def __init__(
        self,
        commit_timeout_s: float = 2.0,
        context_roles: Collection[str] = ("user", "assistant"),
        files: FilePolicy | None = None,
        store: FileStore | None = None,
    ) -> None:
        super().__init__(commit_timeout_s, context_roles, files, store)
        self._timeout_s = commit_timeout_s
        self._roles = frozenset(context_roles)
        self._files = files
        self._store = store
        self._skip_tts: bool | None = False
        self._deadline: Timer | None = None
        self._read_bytes = 0
        """Of uploads, for the texts that go to the bot together."""

    def restore(self, state: Any) -> None:
        self._skip_tts = state

    def on_start(self) -> None:
        """The deadline may be what the incarnation before has crashed on."""
        if self.ledger.texts.waiting:
            self._set_deadline(self.ledger.texts.token)

    def on_output_configured(self, message: OutputConfigured) -> None:
        """The bot's switch has changed."""
        self._skip_tts = message.skip_tts
        self.snapshot(message.skip_tts)

    def on_received(self, message: Received) -> None:
        try:
            _TYPES[message.type](self, message)
        except ClientError as error:
            self.refuse(message, error)
        except Rejected:  # files fill the door's mailbox long before the credit is used up
            self.refuse(message, Overloaded("messages", reply_id=message.id))

    # -- what the client says ----------------------------------------------------------------

    def _interruption(self, message: Received) -> None:
        self.release(message, Interruption())

    def _send_text(self, message: Received) -> None:
        payload = self.payload(message, SendText)
        options = payload.options or SendTextOptions()
        append = LLMMessagesAppend((LLMMessage("user", payload.content),), options.run_immediately, message.id)
        self._inject(message, WaitingText(append, not options.audio_response))

    def _send_file(self, message: Received) -> None:
        payload = self.payload(message, SendFile)
        options = payload.options or SendFileOptions()
        file, upload = self._file(payload, options, message.id)
        append = LLMMessagesAppend(
            (LLMMessage("user", payload.content),), options.run_immediately, message.id, files=(file,)
        )
        self._inject(message, WaitingText(append, not options.audio_response, upload))

    def _append_to_context(self, message: Received) -> None:
        payload = self.payload(message, AppendToContext)
        if payload.role not in self._roles:
            raise InvalidData("data.role", reply_id=message.id, detail="a role that clients may not append")
        append = LLMMessagesAppend(
            (_context_message(payload, message.id),), payload.run_immediately, message.id, typed=False
        )
        self._inject(message, WaitingText(append))

    def _dtmf(self, message: Received) -> None:
        """The `buttons` of protocol 2.1, or without them the `button` of 2.0."""
        payload = self.payload(message, Dtmf)
        keys: tuple[str, ...] = (payload.button,) if isinstance(payload.button, str) else ()
        if isinstance(payload.buttons, tuple):
            keys = payload.buttons
        if not 1 <= len(keys) <= MAX_KEYS:
            raise InvalidData("data.buttons", reply_id=message.id, detail=f"not 1 to {MAX_KEYS} keys")
        self.release(message, InputDTMF(keys))

    def _file(self, payload: SendFile, options: SendFileOptions, msg_id: str) -> tuple[UserFile, StoredFile | None]:
        """The file as the bot gets it. The content of an upload is left where it is until then."""
        if self._files is None:
            raise NoFiles(reply_id=msg_id)
        custom = options.custom_options
        if custom is not None and custom.kind != "object":
            raise InvalidData("data.options.custom_options", reply_id=msg_id, detail="not an object")
        read = read_file(payload.file, self._files, reply_id=msg_id)
        file = UserFile(read.format, read.name, width=read.width, height=read.height, options=custom)
        if not isinstance(read, FileUrl):
            return structs.replace(file, data=read.data, media_type=read.media_type), None
        if not read.url.lower().startswith(SCHEME):
            return structs.replace(file, url=read.url), None
        upload = self._upload(read.url, self._files, msg_id)
        name = upload.name if read.name is None else read.name
        return structs.replace(file, name=name, media_type=upload.format), upload

    def _upload(self, url: str, policy: FilePolicy, msg_id: str) -> StoredFile:
        """What was uploaded. The policy is the bot's, and so holds for it, too."""
        upload = self._store.get(url, self.ledger.session_id) if self._store is not None else None
        if upload is None:
            detail = "no such upload"
        elif upload.size_bytes > policy.max_bytes:
            detail = f"an upload of more than {policy.max_bytes} bytes"
        elif not policy.takes_format(upload.format):
            detail = "an upload of a MIME type that is not taken"
        else:
            return upload
        raise InvalidData("data.file.source.url", reply_id=msg_id, detail=detail)

    # -- waiting -----------------------------------------------------------------------------

    def _inject(self, message: Received, text: WaitingText) -> None:
        """Bring a text to the bot: at once, or behind what waits, or behind its own interruption."""
        book = self.ledger.texts
        if book.over:
            self._release_all(last=True)
            self.release(message, *self._last_frames(text))
        elif book.waiting:
            self.later(book.hold, (message.seq, text))
            self._tell_door(message.seq, None, message.id)
        elif text.append.run_llm:
            self.later(book.hold, (message.seq, text))
            self._interrupt(message.seq, message.id)
        else:
            self.release(message, *self._frames(text))

    def _interrupt(self, seq: int, msg_id: str, goes_on: bool = False) -> None:
        """Interrupt the bot for this text; it waits from here on. `goes_on`: no longer than the one before would have,
        for so many wait that the reader does too, and with it what is no text."""
        self._tell_door(seq, None, msg_id, Interruption(seq))
        self.later(self.ledger.texts.wait_for, seq)
        self._set_deadline(seq, goes_on)

    def on_turn_committed(self, message: TurnCommitted) -> None:
        """The text that waited for it goes to the bot, and what waits behind it, up to the next that interrupts."""
        book = self.ledger.texts
        if message.token not in (0, book.token):
            return
        self._read_bytes = 0
        for seq, text in book.waiting.items():
            if seq != book.token and text.append.run_llm:
                self._interrupt(seq, text.append.msg_id, goes_on=self.ledger.is_crowded)
                break
            self._bring(seq, text)

    def on_commit_expired(self, message: CommitExpired) -> None:
        """Waited long enough: for what the bot does not commit in time nothing waits any longer."""
        book = self.ledger.texts
        if message.token != book.token or not book.waiting:
            return
        if book.token in book.waiting:
            logger.warning(
                "%s: the bot has not committed an interrupted turn within %g s",
                self.ledger.session_id,
                self._timeout_s,
            )
            self.later(book.count_overdue, None)
        self._release_all()

    def on_release_texts(self, message: ReleaseTexts) -> None:
        """The session ends: what waits gets into the context, and no turn runs for it."""
        self._release_all(last=True)

    def _release_all(self, last: bool = False) -> None:
        book = self.ledger.texts
        self._read_bytes = 0
        for seq, text in book.waiting.items():
            late = not last and text.append.run_llm and seq != book.token
            self._bring(seq, text, *([Interruption()] if late else []), last=last)

    def _set_deadline(self, seq: int, goes_on: bool = False) -> None:
        delay_s = self._timeout_s
        if self._deadline is not None:
            self.later(Timer.cancel, self._deadline)
            if goes_on:
                delay_s = max(0.0, self._deadline.due_s - self.cell.timers.now())
        self._deadline = self.after(delay_s, CommitExpired(seq))

    # -- to the bot --------------------------------------------------------------------------

    def _bring(self, seq: int, text: WaitingText, *before: Any, last: bool = False) -> None:
        """End a text that has waited; where it cannot go to the bot, its client hears of it."""
        msg_id = text.append.msg_id
        self.later(self.ledger.texts.drop, seq)
        try:
            self._count_upload(text)
            frames = self._last_frames(text) if last else self._frames(text)
            self._tell_door(seq, Outcome.DELIVERED, msg_id, *before, *frames)
        except ClientError as error:
            self.refuse(Received(seq, "", msg_id, None), error)
        except Rejected:
            self.refuse(Received(seq, "", msg_id, None), Overloaded("messages", reply_id=msg_id))

    def _count_upload(self, text: WaitingText) -> None:
        size = text.upload.size_bytes if text.upload is not None else 0
        if self._read_bytes + size > MAX_READ_BYTES:
            raise Overloaded("files", reply_id=text.append.msg_id)
        self._read_bytes += size

    def _tell_door(self, seq: int, outcome: Outcome | None, msg_id: str, *frames: Any) -> None:
        encode = self.link("bot").encode
        self.link("door").tell(Release(seq, outcome, tuple([encode(frame) for frame in frames]), msg_id))

    def _frames(self, text: WaitingText) -> tuple[Any, ...]:
        """The append, between the switch for it and the switch back, where it wants another than there is."""
        append = _loaded(text)
        before, skip_tts = self._skip_tts, text.skip_tts
        if skip_tts is None or before is skip_tts:
            return (append,)
        return (LLMConfigureOutput(skip_tts), append, LLMConfigureOutput(before))

    def _last_frames(self, text: WaitingText) -> tuple[Any, ...]:
        return (structs.replace(_loaded(text), run_llm=False),)


def _loaded(text: WaitingText) -> LLMMessagesAppend:
    """The append, with the content of an upload: from memory or the disk, 1 to 2 ms for 10 MB. Raises `InvalidData`."""
    if text.upload is None:
        return text.append
    (file,) = text.append.files
    try:
        data = text.upload.data
    except OSError as error:
        raise InvalidData("data.file.source.url", reply_id=text.append.msg_id, detail=str(error)) from None
    return structs.replace(text.append, files=(structs.replace(file, data=data),))


def _context_message(payload: AppendToContext, msg_id: str) -> LLMMessage:
    """Text, or parts as an LLM's API has them, of which those of type ``text`` are the text."""
    content = payload.content
    try:
        if content.kind == "string":
            return LLMMessage(payload.role, from_json(content, str))
        parts = from_json(content, list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise InvalidData("data.content", reply_id=msg_id, detail=str(error)) from None
    texts = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    return LLMMessage(payload.role, " ".join(texts), Json(content.raw))


_TYPES: Final[Mapping[str, Callable[[Text, Received], None]]] = {
    "send-text": Text._send_text,
    "send-file": Text._send_file,
    "append-to-context": Text._append_to_context,
    "dtmf": Text._dtmf,
    INTERRUPTION: Text._interruption,
}
