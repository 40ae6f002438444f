#!/usr/bin/env python3
"""Replays src/batch/stream/streams.jsonl through the SDKs' own accumulation and compares what they get.

    python3 -m venv venv && venv/bin/pip install openai anthropic && venv/bin/python scripts/streams_sdk.py

Only cases with a `judge` are replayed: the SDKs fail at the others, which is why they are there. Fields that
only one side knows are left out; `null` is the same as a field that is missing.
"""
import json
import pathlib
import sys

CASES = pathlib.Path(__file__).parent.parent / "src/batch/stream/streams.jsonl"


def events(case):
    for block in case["events"]:
        data = "".join(line[5:] for line in block.splitlines() if line.startswith("data:")).strip()
        if data and not data.startswith("[DONE]"):
            yield json.loads(data)


def openai_chat(case):
    from openai.lib.streaming.chat import ChatCompletionStreamState
    from openai.types.chat import ChatCompletionChunk

    state = ChatCompletionStreamState()
    for event in events(case):
        state.handle_chunk(ChatCompletionChunk.construct(**event))
    answer = state.current_completion_snapshot.to_dict()
    for choice in answer["choices"]:
        # Where a piece stands is of the stream.
        for call in choice["message"].get("tool_calls") or []:
            call.pop("index", None)
            call.get("function", {}).pop("parsed_arguments", None)
        choice["message"].pop("parsed", None)
    return {**answer, "object": "chat.completion"}


def openai_responses(case):
    from openai import NOT_GIVEN
    from openai._models import construct_type
    from openai.lib.streaming.responses._responses import ResponseStreamState
    from openai.types.responses import ResponseStreamEvent

    state = ResponseStreamState(input_tools=NOT_GIVEN, text_format=NOT_GIVEN)
    for event in events(case):
        done = state.handle_event(construct_type(type_=ResponseStreamEvent, value=event))
    return done[-1].response.to_dict()


def anthropic_messages(case):
    from anthropic._models import construct_type
    from anthropic.lib.streaming._messages import accumulate_event
    from anthropic.types import RawMessageStreamEvent

    snapshot, buffers = None, {}
    for event in events(case):
        if event["type"] == "ping":
            continue
        event = construct_type(type_=RawMessageStreamEvent, value=event)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot.to_dict(mode="json")


JUDGES = {
    ("openai", "chat"): openai_chat,
    ("openai", "responses"): openai_responses,
    ("anthropic", "messages"): anthropic_messages,
}


def told(value):
    """`value` without what says nothing."""
    if isinstance(value, dict):
        return {name: told(item) for name, item in value.items() if item is not None}
    return [told(item) for item in value] if isinstance(value, list) else value


def main():
    wrong, judged = 0, 0
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        if "judge" not in case:
            continue
        judged += 1
        answer = told(JUDGES[case["judge"], case["path"]](case))
        if answer != told(case["expect"]):
            wrong += 1
            print(f"{case['name']}: the SDK has\n  {json.dumps(answer)}\nnot\n  {json.dumps(told(case['expect']))}")
    print(f"{judged} streams, {wrong} not as the SDKs have them")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
