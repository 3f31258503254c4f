# The binary and nothing else. It needs no C library, no shell, no user database: `docker build -t setstone:dev .`
FROM rust:1.95 AS build
WORKDIR /setstone
COPY . .
# A target by name, so that build scripts and macros are not linked statically with it.
# Without symbols, which are a fifth of the binary; a panic still names its file and line.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" --bin setstone \
 && cp "target/$target/release/setstone" /usr/local/bin/setstone

FROM scratch
# On the default PATH, for `kubectl exec setstone-0 -- setstone status`.
COPY --from=build /usr/local/bin/setstone /usr/local/bin/setstone
USER 65532:65532
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/local/bin/setstone"]
CMD ["serve"]
