# Serves what `dvc repro` built, on the CPU. The repository is mounted, nothing of it is in the image:
#
#   docker build -t landmarks .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD:/index:ro" landmarks
FROM python:3.12-slim

WORKDIR /app
COPY requirements.txt pyproject.toml README.md LICENSE ./
# torch for the CPU first, so that nothing asks for the libraries of CUDA, which are left out below.
RUN grep -E '^(torch|torchvision)==' requirements.txt > cpu.txt \
    && grep -vE '^(torch|torchvision|triton|nvidia|cuda)' requirements.txt > rest.txt \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -r cpu.txt \
    && pip install --no-cache-dir -r rest.txt
COPY landmarks landmarks
RUN pip install --no-cache-dir --no-deps . && useradd --no-create-home serving

# Where search keeps its compiled loops.
ENV NUMBA_CACHE_DIR=/tmp/numba
USER serving
WORKDIR /index
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
CMD ["landmarks", "serve", "--host", "0.0.0.0", "--allow-host", "localhost", "--allow-host", "127.0.0.1"]
