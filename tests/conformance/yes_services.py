"""Services that say yes to everything: no check may take that for the contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from trail.v1 import predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc


class YesPredictor(predictor_pb2_grpc.PredictorServiceServicer):
    async def StreamPredict(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            if request.HasField("open"):
                yield predictor_pb2.StreamPredictResponse(opened=predictor_pb2.PredictOpened())
            else:
                answer = predictor_pb2.StepPredictions(step=request.step.step, handles=[1])
                yield predictor_pb2.StreamPredictResponse(predictions=answer)

    async def Predict(self, request: Any, context: Any) -> predictor_pb2.PredictResponse:
        return predictor_pb2.PredictResponse()

    async def PutPrediction(self, request: Any, context: Any) -> predictor_pb2.PutPredictionResponse:
        return predictor_pb2.PutPredictionResponse()

    async def Forget(self, request: Any, context: Any) -> predictor_pb2.ForgetResponse:
        return predictor_pb2.ForgetResponse(forgotten=2)

    async def GetModel(self, request: Any, context: Any) -> predictor_pb2.GetModelResponse:
        return predictor_pb2.GetModelResponse(model=predictor_pb2.Model(name="yes", dim=4))

    async def ListModels(self, request: Any, context: Any) -> predictor_pb2.ListModelsResponse:
        return predictor_pb2.ListModelsResponse()


class YesScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    async def Coordinate(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            if request.HasField("open"):
                yield scheduler_pb2.CoordinateResponse(opened=scheduler_pb2.CoordinateOpened())
            else:
                yield scheduler_pb2.CoordinateResponse(plan=scheduler_pb2.EnginePlan(step=request.delta.step))

    async def Plan(self, request: Any, context: Any) -> scheduler_pb2.PlanResponse:
        return scheduler_pb2.PlanResponse()


@asynccontextmanager
async def yes_services() -> AsyncIterator[str]:
    """Both at one address."""
    server = grpc.aio.server()
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(YesPredictor(), server)  # type: ignore[abstract]
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(YesScheduler(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
