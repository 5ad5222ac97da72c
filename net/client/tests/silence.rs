//! What a server that accepts and never answers looks like.

use std::{net::TcpListener, time::Duration};

use catena_client::{Client, Error, Options};

#[test]
fn a_server_that_never_answers_is_given_up_in_plain_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options::new(&address).with_request_timeout(Duration::from_millis(50));
    let error = Client::new(options).topics().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().ends_with("timed out"), "{error}");
}
