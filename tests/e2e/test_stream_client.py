"""Client.stream and AsyncClient.stream against real servers."""

import asyncio
import threading

import numpy as np
import pytest

from onnxserve import AsyncClient, Cancelled, Client, InvalidArgument, OnnxserveError, Unavailable
from support import zoo
from support.waiting import until

MODELS = {"double": zoo.double(), "slow": zoo.slow()}
CONFIGS = {"slow": "batching: {max_rows: 1}"}
CALLS = 3000


def inputs(count, bad=()):
    for number in range(count):
        yield {"x": np.full((1, 4 if number in bad else 3), number, np.float32)}


def collect(address, asynchronous, model, source, **kwargs):
    """All that a stream gives, by either client."""
    if not asynchronous:
        with Client(address) as client:
            return list(client.stream(model, source, **kwargs))

    async def gather():
        async with AsyncClient(address) as client:
            return [outcome async for outcome in client.stream(model, source, **kwargs)]

    return asyncio.run(gather())


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def asynchronous(request):
    return request.param


def test_answers_come_in_order_and_share_runs(server, asynchronous):
    answers = collect(server.address, asynchronous, "double", inputs(CALLS))
    assert [answer["y"].tolist() for answer in answers] == [[[2 * number] * 3] for number in range(CALLS)]
    assert max(answer.receipt.batch_requests for answer in answers) > 1
    assert len({answer.request_id for answer in answers}) == CALLS


def test_an_error_stands_in_its_place_or_ends_the_stream(server, asynchronous):
    outcomes = collect(server.address, asynchronous, "double", inputs(100, bad=(7, 50)), return_errors=True)
    errors = {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, OnnxserveError)}
    assert errors.keys() == {7, 50}
    assert {type(error) for error in errors.values()} == {InvalidArgument}
    assert errors[7].violations[0].field == "inputs[0].shape"
    assert errors[7].request_id
    with pytest.raises(InvalidArgument, match="inputs"):
        collect(server.address, asynchronous, "double", inputs(100, bad=(7,)))


def test_what_the_inputs_raise_comes_after_the_answers_to_those_before(server, asynchronous):
    def broken():
        yield from inputs(5)
        raise LookupError("no more")

    got = []
    with pytest.raises(LookupError, match="no more"):
        if asynchronous:

            async def run():
                async with AsyncClient(server.address) as client:
                    stream = client.stream("double", broken())
                    while (answer := await anext(stream, None)) is not None:
                        got.append(answer)

            asyncio.run(run())
        else:
            with Client(server.address) as client:
                got.extend(answer for answer in client.stream("double", broken()))
    assert len(got) == 5


def test_an_input_that_cannot_be_sent_is_reported(server, asynchronous):
    with pytest.raises(TypeError, match="numpy"):
        collect(server.address, asynchronous, "double", [{"x": [1, 2, 3]}])


def test_no_inputs_give_no_answers(server, asynchronous):
    assert collect(server.address, asynchronous, "double", []) == []


def test_inputs_are_taken_only_as_there_is_room(server):
    taken = []

    def counted():
        for each in inputs(1000):
            taken.append(each)
            yield each

    with Client(server.address) as client:
        stream = client.stream("double", counted(), window=10)
        next(stream)
        server.wait_for("double", lambda load: load.queued_jobs == 0 and load.running_jobs == 0)
        assert len(taken) <= 11
        assert len(list(stream)) == 999


def test_inputs_of_an_asynchronous_iterable_are_answered_as_they_come(server):
    async def run():
        came = asyncio.Queue()

        async def live():
            while (each := await came.get()) is not None:
                yield each

        async with AsyncClient(server.address) as client:
            stream = client.stream("double", live())
            for each in inputs(5):
                came.put_nowait(each)
                assert (await anext(stream))["y"].tolist() == (2 * each["x"]).tolist()
            came.put_nowait(None)
            assert [outcome async for outcome in stream] == []

    asyncio.run(run())


def test_inputs_that_wait_do_not_hold_back_answers(server):
    go_on = threading.Event()

    def hesitant():
        yield from inputs(1)
        assert go_on.wait(30)
        yield from inputs(1)

    with Client(server.address) as client:
        stream = client.stream("double", hesitant())
        next(stream)
        go_on.set()
        assert len(list(stream)) == 1


def test_a_stream_whose_client_is_closed_takes_its_work_along(server):
    ended = []

    def wait_for(stream):
        with pytest.raises(Cancelled) as raised:
            next(stream)
        ended.append(raised.value.message)

    with server.occupied():
        with Client(server.address) as client:
            stream = client.stream("slow", ({"x": np.ones((1, 1), np.float32)} for _ in range(10)))
            waiter = threading.Thread(target=wait_for, args=(stream,))
            waiter.start()
            server.wait_for("slow", lambda load: load.queued_jobs == 10)
        waiter.join(30)
        server.wait_for("slow", lambda load: load.queued_jobs == 0)
    assert ended


def test_a_stream_whose_client_is_closed_is_not_taken_for_a_cancelled_task(server):
    async def run():
        client = AsyncClient(server.address)
        stream = client.stream("slow", [{"x": np.full((1, 1), 1e6, np.float32)}])
        waiting = asyncio.create_task(anext(stream))
        await asyncio.to_thread(server.wait_for, "slow", lambda load: load.running_jobs == 1)
        await client.close()
        with pytest.raises(Cancelled, match="the client has been closed"):
            await waiting

    asyncio.run(run())


def test_a_stream_that_is_given_up_takes_its_work_along(server):
    with Client(server.address) as client:
        stream = client.stream("double", inputs(10**9))
        next(stream)
        stream.close()
        until(lambda: not server.app.grpc.streams._live)


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_has_room_for_one(server, window):
    with pytest.raises(ValueError, match="window"):
        server.client.stream("double", [], window=window)


def test_a_stream_goes_on_over_the_servers_that_are_left(launch, asynchronous):
    """Two servers behind one name; the one that has the stream stops in the middle, and nothing is lost or doubled."""
    servers = [launch(MODELS, configs=CONFIGS) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    half = threading.Event()

    def halting():
        for number, each in enumerate(inputs(CALLS)):
            if number == CALLS // 2:
                half.set()
            yield each

    stopped = []

    def stop_one():
        half.wait(60)
        stopped.append(servers[0].stop()[0])

    stopper = threading.Thread(target=stop_one)
    stopper.start()
    answers = collect(target, asynchronous, "double", halting())
    stopper.join(60)
    assert stopped == [0]
    assert [answer["y"].flat[0] for answer in answers] == [2 * number for number in range(CALLS)]


def test_when_no_server_is_left_the_stream_says_so(launch, asynchronous):
    server = launch(MODELS, configs=CONFIGS)

    def stopping():
        yield from inputs(10)
        server.stop()
        yield from inputs(1)

    with pytest.raises(Unavailable):
        collect(server.address, asynchronous, "double", stopping())
