"""A request becomes a turn of the conversation: the tool that its words ask for is run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from medfm.assistant.conversation import Conversation, Turn
from medfm.assistant.routing import Call, route
from medfm.assistant.stopping import Stopped
from medfm.assistant.structures import structures
from medfm.assistant.tools import TOOLS, available
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.model import MedFM

__all__ = ["respond", "run_tool"]


def respond(talk: Conversation, request: str, model: MedFM) -> Iterator[Turn]:
    """Answer `request` with the tool that its words ask for: yields the growing turn, the last time when done."""
    yield from run_tool(talk, route(request, tools=available(), structures=structures(model)), model)


def run_tool(talk: Conversation, call: Call, model: MedFM) -> Iterator[Turn]:
    """Run one of `TOOLS` and keep its turn. An error becomes a failed turn that says what to do.

    A turn ends as "stopped" when this generator is closed, or a layer of a network raises Stopped (`stopped_by`).
    """
    turn = Turn("medfm", tool=call.tool, state="running")
    talk.turns.append(turn)
    start = time.perf_counter()
    try:
        _ = talk.opened
        yield turn
        for _ in TOOLS[call.tool].run(talk, model, turn, **call.arguments):
            yield turn
        turn.state = "done"
    except MedfmError as error:
        turn.state, turn.text = "failed", str(error)
    except Stopped:
        turn.state = "stopped"
    except GeneratorExit:
        turn.state = "stopped"
        raise
    except BaseException:
        turn.state = "failed"  # nobody waits for it any more
        raise
    finally:
        seconds, outcome = round(time.perf_counter() - start, 2), "abstained" if turn.abstained else turn.state
        talk.log(
            "tool", tool=call.tool, adapter=getattr(model, "name", ""), seconds=seconds, outcome=outcome,
            scan=talk.current,
        )  # fmt: skip
    yield turn
