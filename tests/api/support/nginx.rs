//! A real nginx with the configuration that operators get, and a TLS client for it.
//!
//! Invariant: only the process that was started here is ended. Its guard ends it by its id when the guard is dropped, also
//! after a panic.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, ClientBuilder};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::net::{TcpListener, TcpSocket};

use super::process::start;

/// The configuration file that is delivered to operators.
const CONFIGURATION: &str = include_str!("../../../packaging/nginx.conf");
/// The name in the test's certificate.
pub const NAME: &str = "localhost";
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Another process may take the port before nginx listens on it.
const START_TRIES: u32 = 5;
/// A caller's address that differs from the proxy's own.
pub const CALLER: [u8; 4] = [127, 0, 0, 2];

pub struct Nginx {
    /// The address for TLS.
    pub address: SocketAddr,
    /// The address that redirects callers to TLS.
    pub plain_address: SocketAddr,
    certificate: rcgen::Certificate,
    child: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx in front of a server.
    pub async fn start(backend: SocketAddr) -> Self {
        let mut tries = 1;
        loop {
            match Self::try_start(backend).await {
                Ok(nginx) => return nginx,
                Err(log) if tries < START_TRIES && log.contains("Address already in use") => tries += 1,
                Err(log) => panic!("nginx did not start:\n{log}"),
            }
        }
    }

    async fn try_start(backend: SocketAddr) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), key.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.signing_key.serialize_pem()).unwrap();
        let (address, plain_address) = (free_address().await, free_address().await);
        std::fs::write(folder.path().join("site.conf"), site(folder.path(), backend, address, plain_address)).unwrap();
        std::fs::write(folder.path().join("main.conf"), main(folder.path())).unwrap();
        let words = [
            program().display().to_string(),
            "-p".into(),
            folder.path().display().to_string(),
            "-e".into(),
            folder.path().join("error.log").display().to_string(),
            "-c".into(),
            folder.path().join("main.conf").display().to_string(),
        ];
        let child = start(&words, &folder.path().join("output.log"));
        let mut nginx = Self { address, plain_address, certificate: key.cert, child, folder };
        let deadline = Instant::now() + START_TIMEOUT;
        // nginx writes this file when it listens on both ports. A successful connection would not prove that, because another
        // test may have taken the port.
        while !nginx.folder.path().join("nginx.pid").exists() {
            if nginx.child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return Err(nginx.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(nginx)
    }

    /// The output and the logs of nginx.
    pub fn log(&self) -> String {
        ["output.log", "error.log"]
            .map(|name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }

    pub fn url(&self, target: &str) -> String {
        format!("https://{NAME}:{}{target}", self.address.port())
    }

    /// A client that trusts only this certificate and calls from [`CALLER`].
    pub fn client(&self) -> ClientBuilder {
        Client::builder()
            .no_proxy()
            .local_address(std::net::IpAddr::from(CALLER))
            .resolve(NAME, self.address)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([Certificate::from_pem(self.certificate.pem().as_bytes()).unwrap()])
            .timeout(Duration::from_secs(30))
    }

    /// Sends bytes over TLS from [`CALLER`], and reads until the end or until nothing arrives for a second.
    pub async fn raw(&self, request: Vec<u8>) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((CALLER, 0).into()).unwrap();
        let stream = socket.connect(self.address).await.unwrap().into_std().unwrap();
        let certificate = self.certificate.der().clone();
        tokio::task::spawn_blocking(move || exchange(stream, certificate, &request)).await.unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // nginx runs as one process without workers, so no other process remains.
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn exchange(stream: std::net::TcpStream, certificate: CertificateDer<'static>, request: &[u8]) -> String {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    // The server may answer and close before it has read everything.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return String::from_utf8_lossy(&answer).into_owned(),
        }
    }
}

/// Debian installs nginx in a folder that is only in root's PATH.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    let found = folders.into_iter().map(|folder| folder.join("nginx")).find(|file| file.is_file());
    found.expect("nginx is not installed: run scripts/setup test")
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The delivered configuration. Only its placeholders are replaced.
fn site(folder: &Path, backend: SocketAddr, address: SocketAddr, plain_address: SocketAddr) -> String {
    let mut text = CONFIGURATION.to_owned();
    for (placeholder, value) in [
        ("    listen [::]:80;\n", String::new()),
        ("    listen [::]:443 ssl http2;\n", String::new()),
        ("listen 80;", format!("listen {plain_address};")),
        ("listen 443 ", format!("listen {address} ")),
        ("127.0.0.1:8000;", format!("{backend};")),
        ("/etc/letsencrypt/live/example.org/fullchain.pem", folder.join("certificate.pem").display().to_string()),
        ("/etc/letsencrypt/live/example.org/privkey.pem", folder.join("key.pem").display().to_string()),
        ("https://example.org$request_uri", format!("https://{NAME}:{}$request_uri", address.port())),
        ("server_name example.org", format!("server_name {NAME}")),
    ] {
        assert!(text.contains(placeholder), "packaging/nginx.conf has no {placeholder}");
        text = text.replace(placeholder, &value);
    }
    text
}

/// The main configuration, like the lines around a site in Debian's nginx.conf. nginx runs as one process of the present user,
/// with all its files in one folder.
fn main(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 768; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log {folder}/access.log;
    gzip on;
    include {folder}/site.conf;
}}
"
    )
}
