"""Both pipelines from one long-lived process, without a work pool and a worker.

    python deployments/serve.py

It needs a Prefect server: the address of its API in PREFECT_API_URL, its password in PREFECT_API_AUTH_STRING. There the
process makes the deployments `download-images/served` and `ingest-csv/served`, waits for their runs, by schedule or by
hand, and starts each in a process of its own. Relative paths are relative to the folder in which it was started. When
it is stopped it pauses the schedules; when it is started again they go on.

Exit code 2: no server is named.
"""

import sys

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from prefect_fanout.flows.download_images import download_images
from prefect_fanout.flows.ingest_csv import ingest_csv

# A run directory belongs to one run at a time. A second run waits, and then does what the first has not done.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def main() -> None:
    """Serve both flows until the process is stopped."""
    if PREFECT_API_URL.value() is None:
        # Prefect would start a server that ends with this process, and that asks nobody for a password.
        print(
            "Set PREFECT_API_URL to the address of a running Prefect server, and PREFECT_API_AUTH_STRING to its "
            "password.",
            file=sys.stderr,
        )
        sys.exit(2)
    images = RunnerDeployment.from_flow(
        download_images,
        name="served",
        description="Download the images of a list; each run adds what is new on it.",
        tags=["fanout", "images"],
        parameters={"urls": "images.txt", "out": "runs/images"},
        schedule=Cron("15 2 * * *", timezone="UTC", slug="nightly"),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    csv = RunnerDeployment.from_flow(
        ingest_csv,
        name="served",
        description="Turn the CSV files of a folder into Parquet; each run adds the files that are new in it.",
        tags=["fanout", "csv"],
        parameters={"sources": "incoming/*.csv", "out": "runs/csv"},
        schedule=Cron("45 2 * * *", timezone="UTC", slug="nightly"),
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    serve(images, csv)


if __name__ == "__main__":
    main()
