"""The tools of a conversation over the Model Context Protocol: what the page can do, another program can ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from medfm.assistant.conversation import Conversation
from medfm.assistant.intake import Intake
from medfm.assistant.responding import run_tool
from medfm.assistant.routing import Call
from medfm.assistant.tools import TOOLS, available
from medfm.assistant.words import DISCLAIMER, about_scan
from medfm.errors import MedfmError

if TYPE_CHECKING:
    from medfm.model import MedFM

__all__ = ["serve", "server"]

_OPEN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "A scan on this machine: file, folder or zip."},
        "series": {"type": "integer", "minimum": 0, "description": "Which series, if there are several."},
        "prior": {"type": "boolean", "description": "True: an earlier scan of the patient, to compare with."},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def serve(load: Callable[[], MedFM], intake: Intake, *, talk: Conversation) -> None:
    """Answer over standard input and output until the other side ends; the model is loaded when it is first needed."""
    import anyio
    from mcp.server.stdio import stdio_server

    made = server(load, intake, talk=talk)

    async def run() -> None:
        async with stdio_server() as (read, write):
            await made.run(read, write, made.create_initialization_options())

    try:
        anyio.run(run)
    finally:
        talk.close()


def server(load: Callable[[], MedFM], intake: Intake, *, talk: Conversation) -> Any:
    """An MCP server with one conversation: the tool `open`, and those of `medfm.assistant.tools` with their schemas.

    Raises MedfmError when the library mcp is missing.
    """
    try:
        import anyio
        from mcp import types
        from mcp.server import Server
    except ImportError as error:
        raise MedfmError("--mcp needs the library mcp; run: pip install 'medfm[mcp]'") from error
    listed = [types.Tool(name="open", description="Open a scan, before anything else.", input_schema=_OPEN)]
    listed += [
        types.Tool(name=t.name, description=t.description, input_schema=t.schema)
        for t in map(TOOLS.__getitem__, available())
    ]
    model: list[MedFM] = []
    one_at_a_time = anyio.Lock()

    def answer(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "open":
            return _open(talk, intake, **arguments)
        if not model:
            model.append(load())
        *_, turn = run_tool(talk, Call(name, arguments), model[0])
        if turn.state == "failed":
            raise MedfmError(turn.text)
        said = turn.to_dict()
        if name == "report" and talk.report is not None:
            said["report"] = talk.report.to_dict()
        return said

    async def list_tools(context: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: Any) -> Any:
        name, arguments = params.name, dict(params.arguments or {})
        try:
            _check(name, arguments)
            async with one_at_a_time:
                said = await anyio.to_thread.run_sync(partial(answer, name, arguments))
        except MedfmError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        text = types.TextContent(type="text", text=json.dumps(said, ensure_ascii=False))
        return types.CallToolResult(content=[text], structured_content=said)

    return Server(
        "medfm", version=version("medfm"), instructions=DISCLAIMER, on_list_tools=list_tools, on_call_tool=call_tool
    )


def _open(talk: Conversation, intake: Intake, *, path: str, series: int | None = None, prior: bool = False) -> Any:
    scan = intake.read_path(path, series=series)
    talk.open(scan, prior=prior and talk.current is not None)
    return {"scan": about_scan(scan), "notes": list(scan.notes)}


def _check(name: str, arguments: dict[str, Any]) -> None:
    """Refuse unknown tools and arguments, and values of another type than the schema's. Raises MedfmError."""
    schema = _OPEN if name == "open" else TOOLS[name].schema if name in TOOLS else None
    if schema is None:
        raise MedfmError(f"There is no tool {name!r}; there are open, {', '.join(TOOLS)}.")
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list}
    for key, value in arguments.items():
        about = schema["properties"].get(key)
        if about is None:
            raise MedfmError(f"{name} takes {', '.join(schema['properties'])}; found {key!r}.")
        if type(value) is not kinds[about["type"]]:
            raise MedfmError(f"{name}: {key} is to be of type {about['type']}; found {type(value).__name__}.")
        if isinstance(value, list) and not (len(value) in (2, 3, 4, 6) and all(type(v) in (int, float) for v in value)):
            raise MedfmError(f"{name}: {key} is to be a list of 2, 3, 4 or 6 numbers.")
    if missing := [key for key in schema["required"] if key not in arguments]:
        raise MedfmError(f"{name} needs {', '.join(missing)}.")
