//! Loopback addresses: a free 127.x.y.0/24 for this run, and addresses of it for pods.
//!
//! Linux delivers all of 127.0.0.0/8 to this machine without setting anything up, which is why the playground is for
//! Linux only. Invariants: two playgrounds never have the same network (the name server's sockets, which are bound
//! exclusively for as long as the playground runs, are the lock); no two pods have the same address; an address is not
//! given out again before all others were. Called by `driver`.
//!
//! | Host | Whose |
//! |---|---|
//! | 2 | client service |
//! | 10–199 | pods, a fresh one in each life |
//! | 53 | name server; taken out of the pods' range |
//! | 200 + ordinal | fixed client address of a pod |

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use rand::RngExt;

use super::naming::{ADMIN_PORT, CLIENT_PORT, PEER_PORT};
use crate::identity::Ordinal;
use crate::limits::PLAYGROUND_PODS;

/// Port of the name server: not 53, because that may need privileges.
const DNS_PORT: u16 = 5300;
const SERVICE_HOST: u8 = 2;
const DNS_HOST: u8 = 53;
const POD_HOSTS: std::ops::RangeInclusive<u8> = 10..=199;
const CLIENT_HOST: u8 = 200;
/// Second and third byte of the network.
const NETWORK_BYTES: std::ops::Range<u8> = 64..250;
/// Networks that are tried at random before giving up: of 34,596, so many are not taken by chance.
const ATTEMPTS: usize = 64;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No network is free.
    #[error(
        "no free network 127.x.y.0/24: {ATTEMPTS} were tried, and of the last one {address} cannot be bound: {source}"
    )]
    NoNetwork {
        /// The address that could not be bound.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Every pod address is in use, by pods or by other programs.
    #[error("no free pod address left in {network}/24")]
    NoPodAddress {
        /// The network.
        network: Ipv4Addr,
    },
}

/// Sockets of the name server; holding them holds the network.
#[derive(Debug)]
pub struct DnsSockets {
    /// For questions over UDP.
    pub udp: UdpSocket,
    /// For questions over TCP.
    pub tcp: TcpListener,
    /// Where both are bound.
    pub address: SocketAddr,
}

/// The network of one playground.
#[derive(Debug)]
pub struct Subnet {
    x: u8,
    y: u8,
    last_host: u8,
    in_use: BTreeSet<u8>,
}

impl Subnet {
    /// Finds a free network and takes it.
    ///
    /// # Errors
    /// [`AddressError::NoNetwork`], for example when a program listens on port 2379 of all addresses.
    pub fn reserve() -> Result<(Self, DnsSockets), AddressError> {
        let mut random = rand::rng();
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let subnet = Self::new(random.random_range(NETWORK_BYTES), random.random_range(NETWORK_BYTES));
            match subnet.take() {
                Ok(sockets) => return Ok((subnet, sockets)),
                Err(error) => failed = Some(error),
            }
        }
        let (address, source) = failed.unwrap_or_else(|| {
            (SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)), io::ErrorKind::AddrInUse.into())
        });
        Err(AddressError::NoNetwork { address, source })
    }

    fn new(x: u8, y: u8) -> Self {
        Self { x, y, last_host: *POD_HOSTS.end(), in_use: BTreeSet::new() }
    }

    fn take(&self) -> Result<DnsSockets, (SocketAddr, io::Error)> {
        let address = SocketAddr::from((self.host(DNS_HOST), DNS_PORT));
        let tell = |error| (address, error);
        // UDP first: it is bound without SO_REUSEADDR, so only one playground can have it.
        let udp = UdpSocket::bind(address).map_err(tell)?;
        let tcp = TcpListener::bind(address).map_err(tell)?;
        udp.set_nonblocking(true).map_err(tell)?;
        tcp.set_nonblocking(true).map_err(tell)?;
        for address in [
            SocketAddr::from((self.service(), CLIENT_PORT)),
            SocketAddr::from((self.host(*POD_HOSTS.start()), CLIENT_PORT)),
            SocketAddr::from((self.host(*POD_HOSTS.start()), PEER_PORT)),
            SocketAddr::from((self.host(*POD_HOSTS.start()), ADMIN_PORT)),
        ] {
            TcpListener::bind(address).map_err(|error| (address, error))?;
        }
        Ok(DnsSockets { udp, tcp, address })
    }

    /// Address of the client service.
    pub fn service(&self) -> Ipv4Addr {
        self.host(SERVICE_HOST)
    }

    /// The address at which clients reach the pod of this ordinal in every life. `None` from [`PLAYGROUND_PODS`] on.
    pub fn client(&self, ordinal: Ordinal) -> Option<Ipv4Addr> {
        let ordinal = u8::try_from(ordinal).ok().filter(|_| ordinal < PLAYGROUND_PODS)?;
        Some(self.host(CLIENT_HOST + ordinal))
    }

    /// An address for a pod: the next one that no pod has and whose ports are free.
    ///
    /// # Errors
    /// [`AddressError::NoPodAddress`].
    pub fn allocate(&mut self) -> Result<Ipv4Addr, AddressError> {
        for _ in POD_HOSTS {
            let next = self.last_host.wrapping_add(1);
            self.last_host = if POD_HOSTS.contains(&next) { next } else { *POD_HOSTS.start() };
            let address = self.host(self.last_host);
            let free = || {
                [CLIENT_PORT, PEER_PORT, ADMIN_PORT]
                    .iter()
                    .all(|port| TcpListener::bind((address, *port)).is_ok())
            };
            if self.last_host != DNS_HOST && !self.in_use.contains(&self.last_host) && free() {
                self.in_use.insert(self.last_host);
                return Ok(address);
            }
        }
        Err(AddressError::NoPodAddress { network: self.host(0) })
    }

    /// Takes the address of a pod back.
    pub fn release(&mut self, address: Ipv4Addr) {
        let [_, _, _, host] = address.octets();
        self.in_use.remove(&host);
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.x, self.y, host)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_is_taken_by_one_at_a_time() {
        let (subnet, sockets) = Subnet::reserve().unwrap();
        let again = Subnet::new(subnet.x, subnet.y);
        let (address, error) = again.take().unwrap_err();
        assert_eq!((address, error.kind()), (sockets.address, io::ErrorKind::AddrInUse));
        drop(sockets);
        assert!(again.take().is_ok());
    }

    #[test]
    fn a_port_that_another_program_has_makes_the_network_not_free() {
        let (subnet, sockets) = Subnet::reserve().unwrap();
        drop(sockets);
        let taken = TcpListener::bind((subnet.service(), CLIENT_PORT)).unwrap();
        assert_eq!(subnet.take().unwrap_err().0, taken.local_addr().unwrap());
    }

    #[test]
    fn addresses_come_round_only_after_all_others_and_never_twice_at_once() {
        let (mut subnet, _sockets) = Subnet::reserve().unwrap();
        let kept = subnet.allocate().unwrap();
        let mut given = Vec::new();
        // 190 hosts, without the name server's and the one that is kept.
        for _ in 0..188 {
            let address = subnet.allocate().unwrap();
            subnet.release(address);
            assert!(!given.contains(&address) && address != kept, "{address} came too early");
            given.push(address);
        }
        assert_eq!(subnet.allocate().unwrap(), *given.first().unwrap());
        assert!(!given.contains(&subnet.host(DNS_HOST)));
    }

    #[test]
    fn an_address_that_another_program_has_is_skipped_and_an_empty_pool_is_an_error() {
        let (mut subnet, _sockets) = Subnet::reserve().unwrap();
        let other = TcpListener::bind((subnet.host(11), PEER_PORT)).unwrap();
        let mut given = BTreeSet::new();
        while let Ok(address) = subnet.allocate() {
            assert!(given.insert(address), "{address} twice");
        }
        assert_eq!(given.len(), 188);
        assert!(!given.contains(&subnet.host(11)));
        drop(other);
        assert_eq!(subnet.allocate().unwrap(), subnet.host(11));
        assert!(subnet.allocate().unwrap_err().to_string().contains(".0/24"));
    }

    #[test]
    fn client_addresses_are_fixed_and_end() {
        let subnet = Subnet::new(70, 80);
        assert_eq!(subnet.client(0), Some(Ipv4Addr::new(127, 70, 80, 200)));
        assert_eq!(subnet.client(PLAYGROUND_PODS - 1), Some(Ipv4Addr::new(127, 70, 80, 249)));
        assert_eq!(subnet.client(PLAYGROUND_PODS), None);
        assert_eq!(subnet.client(300), None);
    }
}
