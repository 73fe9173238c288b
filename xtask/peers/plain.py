"""FastAPI doing what `POST /run` does: take an input, ask the model once, give the answer back.

With PEER_STATE it is durable as Mote is: the task is on disk before the model is asked, and the result before the answer
goes out, each with a full fsync. It retries nothing, bounds nothing and observes nothing.
"""

import os
import uuid
from contextlib import asynccontextmanager

import aiosqlite
import httpx
from fastapi import FastAPI
from pydantic import BaseModel

STATE = os.environ.get("PEER_STATE")


class Task(BaseModel):
    input: str


@asynccontextmanager
async def lifespan(app: FastAPI):
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    async with httpx.AsyncClient(base_url=os.environ["PEER_MODEL_URL"], limits=limits, timeout=60) as client:
        app.state.client = client
        if STATE:
            async with aiosqlite.connect(STATE, isolation_level=None) as store:
                await store.execute("PRAGMA journal_mode = WAL")
                await store.execute("PRAGMA synchronous = FULL")
                await store.execute("CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY, input TEXT, result TEXT)")
                app.state.store = store
                yield
        else:
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready():
    return {"ready": True}


@app.post("/run")
async def run(task: Task):
    identity = str(uuid.uuid4())
    if STATE:
        await app.state.store.execute("INSERT INTO task (id, input) VALUES (?, ?)", (identity, task.input))
    request = {"model": os.environ["PEER_MODEL"], "messages": [{"role": "user", "content": task.input}]}
    response = await app.state.client.post("/chat/completions", json=request)
    response.raise_for_status()
    reply = response.json()
    result = reply["choices"][0]["message"]["content"]
    if STATE:
        await app.state.store.execute("UPDATE task SET result = ? WHERE id = ?", (result, identity))
    return {"id": identity, "status": "completed", "result": result, "usage": reply["usage"]}
