# An image of the worker alone: one static file of less than 1 MB.
#
#   npm run build -- --all     (or take lmshm-worker from the package @lmshm/linux-x64-musl)
#   docker build -f examples/deploy/worker.Dockerfile -t lmshm-worker lib/linux-x64-musl

FROM scratch
COPY lmshm-worker /lmshm-worker
USER 1000:1000
ENTRYPOINT ["/lmshm-worker"]
