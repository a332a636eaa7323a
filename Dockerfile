# The course's service over what `make course` has built here:
#   docker build -t course .
#   docker run --user "$(id -u)" -p 127.0.0.1:7860:7860 -v "$PWD/artifacts:/course/artifacts" course
# Set COURSE_API_TOKEN (-e) when others can reach the port.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home shop
WORKDIR /course
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e . && mkdir -p artifacts && chown shop artifacts
USER shop
ENV HF_HUB_OFFLINE=1
EXPOSE 7860
HEALTHCHECK --start-period=2m CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=5)"
CMD ["python", "-m", "course", "serve", "--host", "0.0.0.0"]
