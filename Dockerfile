# Image of the service. Build: docker build -t dagrec .
# Run: docker run -p 8000:8000 -v /path/to/store:/store:ro dagrec
# The store is a folder that `dagrec train --store` published.
# POST /admin/rollback needs a store that user 10001 can write (no :ro). Secrets: -e DAGREC_API_KEY.

FROM python:3.11-slim AS build
# An index with torch's CPU wheels, if pip would otherwise install those with CUDA:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t dagrec .
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# Dependencies first, so that changes of the source do not reinstall them.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p dagrec service/dagrec_service \
    && touch dagrec/__init__.py service/dagrec_service/__init__.py \
    && pip install --no-cache-dir -c constraints.txt ".[train,serve]" \
    && pip uninstall -y dagrec && rm -rf dagrec service build
COPY dagrec dagrec
COPY service service
RUN pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
# The ranker's LightGBM links against the system's OpenMP.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 dagrec
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGREC_HOST=0.0.0.0 \
    DAGREC_PORT=8000
USER dagrec
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['DAGREC_PORT']}/health/ready\", timeout=4)"]
ENTRYPOINT ["dagrec", "serve", "--store", "/store"]
