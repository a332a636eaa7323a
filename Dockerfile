# The course's service over what `make course` has built here, without notebooks, Ray, Milvus and CUDA:
#   docker build -t course .
#   docker run --user "$(id -u)" -p 127.0.0.1:7860:7860 -v "$PWD/artifacts:/course/artifacts" course
# Set COURSE_API_TOKEN (-e) when others can reach the port. With a GPU: --build-arg TORCH=cu130, or another backend of uv.
FROM python:3.11-slim
ARG TORCH=cpu
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home shop && pip install --no-cache-dir uv
WORKDIR /course
COPY . .
RUN uv pip install --system --no-cache --torch-backend "$TORCH" --constraints requirements.txt -e '.[demo]' \
    && mkdir -p artifacts && chown shop artifacts
USER shop
ENV HF_HUB_OFFLINE=1
EXPOSE 7860
HEALTHCHECK --start-period=2m CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=5)"
CMD ["python", "-m", "course", "serve", "--host", "0.0.0.0"]
