//! What metadata costs is bounded by what the cluster has, not by what is asked.

mod common;

use std::borrow::Cow;

use catena_node::Limits;
use catena_wire::{
    Api, ErrorCode, Message, MetadataRequest, MetadataResponse, limits::METADATA_NAMES_MAX,
};
use common::World;

#[test]
fn a_name_that_is_asked_for_often_is_told_once() {
    let mut world = World::new(Limits::default(), 1 << 30);
    world.topic("many", 100);
    let mut names: Vec<Cow<'_, str>> = vec!["many".into(); METADATA_NAMES_MAX - 2];
    names.extend(["none".into(), "none".into()]);
    let answer = world.ask(Api::Metadata, &MetadataRequest { names }).unwrap();
    let response = MetadataResponse::decode(&answer.head).unwrap();
    let told: Vec<_> = response.topics.iter().map(|t| (&*t.name, t.error)).collect();
    assert_eq!(told, [("many", ErrorCode::None), ("none", ErrorCode::UnknownTopic)]);
}

#[test]
fn more_names_than_there_can_be_topics_are_refused() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let names = vec!["many".into(); METADATA_NAMES_MAX + 1];
    let answer = world.ask(Api::Metadata, &MetadataRequest { names }).unwrap();
    let response = MetadataResponse::decode(&answer.head).unwrap();
    assert_eq!(response.error, ErrorCode::InvalidRequest);
    assert!(response.message.contains("at most 10000"), "{}", response.message);
}
