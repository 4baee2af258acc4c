# Outrigger in a container: the same steps as `make build`, then the three binaries and nothing else but a place for state.
#
#   docker build -t outrigger .
#   docker run --rm -v "$PWD/mesh:/mesh:ro" -p 8080:8080 outrigger up -f /mesh --edge 0.0.0.0:8080
#
# Services run beside the binaries: build an image FROM this one that adds them.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION" && mkdir -p /state

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /src/bin/outrigger /src/bin/outrigger-sidecar /src/bin/outrigger-runner /usr/local/bin/
COPY --from=build /src/LICENSE /src/NOTICE /usr/share/doc/outrigger/
COPY --from=build --chown=nonroot:nonroot /state /var/lib/outrigger
USER nonroot
WORKDIR /var/lib/outrigger
VOLUME /var/lib/outrigger
EXPOSE 8080
# TERM drains the services in reverse order; give it time.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/outrigger"]
CMD ["up", "--state", "/var/lib/outrigger/state", "-f", "/etc/outrigger"]
