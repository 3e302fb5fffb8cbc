"""``GET /submissions/{id}``: what became of documents that were accepted."""

from fastapi import APIRouter, HTTPException

from producers.api.answers import Submission
from producers.api.errors import problems
from producers.client import IngestClient


def submission_routes(client: IngestClient) -> APIRouter:
    """The routes that follow what ``client`` put on its queue."""
    router = APIRouter(tags=["submissions"])

    # FastAPI would describe a 422 of its own for the parameter.
    @router.get("/submissions/{submission}", responses=problems(404, 422, 503))
    async def follow(submission: str) -> Submission:
        """How far a submission is. It is known for a week after its last change."""
        status = await client.status(submission)
        if status.accepted == 0:
            raise HTTPException(404, f"there is no submission {submission!r}")
        return Submission.model_validate(
            {
                "submission": submission,
                **status.as_json(),
                "dead_letters": await client.queue.failed_documents(submission),
            }
        )

    return router
