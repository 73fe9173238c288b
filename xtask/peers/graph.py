"""FastAPI and LangGraph doing what `POST /run` does: an agent graph of one model node, asked once.

With PEER_STATE its checkpoints go to SQLite through LangGraph's own saver, with a full fsync.
"""

import os
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

STATE = os.environ.get("PEER_STATE")


class Task(BaseModel):
    input: str


@asynccontextmanager
async def lifespan(app: FastAPI):
    model = ChatOpenAI(model=os.environ["PEER_MODEL"], base_url=os.environ["PEER_MODEL_URL"], api_key="none", max_retries=0)

    async def agent(state: MessagesState):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    async with AsyncExitStack() as stack:
        saver = None
        if STATE:
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(STATE))
            await saver.setup()
            await saver.conn.execute("PRAGMA synchronous = FULL")
        app.state.graph = graph.compile(checkpointer=saver)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready():
    return {"ready": True}


@app.post("/run")
async def run(task: Task):
    identity = str(uuid.uuid4())
    state = await app.state.graph.ainvoke(
        {"messages": [("user", task.input)]}, config={"configurable": {"thread_id": identity}}
    )
    last = state["messages"][-1]
    return {"id": identity, "status": "completed", "result": last.content, "usage": last.usage_metadata}
