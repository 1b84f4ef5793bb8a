"""The tools over the Model Context Protocol, through the library's own client; a fake model behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import medfm
from medfm.assistant import Conversation, Intake, available

mcp = pytest.importorskip("mcp")
if not hasattr(mcp, "Client"):
    pytest.skip("an older mcp", allow_module_level=True)


def test_a_program_opens_a_scan_and_calls_the_tools(fake_verbs: Any, pictures: Path) -> None:
    import anyio

    from medfm.assistant.mcp import server

    talk = Conversation("test")

    async def use() -> None:
        made = server(lambda: fake_verbs, Intake((pictures,)), talk=talk)
        async with mcp.Client(made) as client:
            assert client.server_info.version == medfm.__version__
            listed = (await client.list_tools()).tools
            assert [tool.name for tool in listed] == ["open", *available()]
            early = await client.call_tool("ask", {"question": "what modality is this?"})
            assert early.is_error and "Open a scan first" in early.content[0].text
            outside = await client.call_tool("open", {"path": "/etc/passwd"})
            assert outside.is_error and "below what may be opened" in outside.content[0].text
            opened = await client.call_tool("open", {"path": str(pictures / "bright.png")})
            assert "32 x 24" in opened.structured_content["scan"]
            answer = (await client.call_tool("ask", {"question": "what modality is this?"})).structured_content
            assert (answer["text"], answer["confidence"]) == ("MRI", 0.95)
            outlined = (await client.call_tool("segment", {"structure": "liver"})).structured_content
            assert outlined["evidence"][0]["number"] == "roughly 48 pixels"
            spread = await client.call_tool("segment", {"point": ["a", 2]})
            assert spread.is_error and "numbers" in spread.content[0].text
            marked = (await client.call_tool("segment", {"box": [4, 4, 20, 18]})).structured_content
            assert marked["abstained"] or marked["evidence"][0]["label"] == "Marked region"
            drafted = (await client.call_tool("report", {})).structured_content
            assert "not for diagnosis" in drafted["report"]["watermark"]
            wrong = await client.call_tool("measure", {"structure": 3})
            assert wrong.is_error
            unknown = await client.call_tool("measure", {"organ": "liver"})
            assert unknown.is_error and "structure" in unknown.content[0].text

    anyio.run(use)
